#!/usr/bin/env -S python3 -ES
"""A fake ``claude``: speaks the CLI's stream-json as CLI 2.1.329 was measured to, and misbehaves on request.

It takes the real argv, keeps transcripts below ``CLAUDE_CONFIG_DIR`` (so ``--resume`` remembers) and needs
the standard library only. Give ``cli_path`` the file that the fixture ``fake_claude`` (or ``build`` here)
makes: one executable that can be copied or bound anywhere. This script does the same beside its parts.

What a turn does is told by the message's text: PROMPT, then WORDS. The PROMPT is one of

  stream N [MS]          N deltas "w0 w1 …", MS milliseconds between them
  clock N [MS]           N deltas, each the time of its writing: CLOCK_MONOTONIC, ns
  history                all user texts so far (their PROMPTs), a line each
  write NAME TEXT        the Write tool: asks, really writes below the cwd
  read PATH              the Read tool: does not ask
  bash CMD               the Bash tool: asks, really runs, as a session of its own
  question TEXT          AskUserQuestion, answered by ``updatedInput.answers``
  mcp SERVER TOOL JSON   a tool of an MCP server of the host
  env | argv | cwd       what it sees, as JSON
  /clear                 a new conversation with a new session id
  anything else          "echo: PROMPT", a delta a word

The WORDS begin with "!" and happen before the first delta, unless a place stands before them: ``!before``
(before system/init), ``!at K`` (before delta K), ``!after`` (after the result), ``!idle`` (after the turn's
last frame). The numbers may be left out.

  sleep S        wait; an interrupt ends it           hang          wait for ever; pings, interrupt work
  freeze         wait for ever, read nothing more     deaf          read stdin no more, go on otherwise
  exit N         exit with code N                     signal N      signal N to itself (9 KILL, 19 STOP)
  half-line      half a frame, then exit 1            crashes N     exit 1 in the cwd's first N processes
  mute           print nothing from now on            close-stdout  close stdout, live on
  ignore-term    deaf to SIGTERM and SIGINT           ignore-eof    live on after the end of input
  child          a child sleeps and holds stdout      setsid        the same in a session of its own
  double-fork    the same, orphaned                   spin S        burn CPU for S seconds
  memory N       touch and keep N bytes               stderr N      N bytes to stderr
  huge N         an assistant frame of N bytes        split N MS    stdout in pieces of N bytes, MS apart
  noise          a line that is not JSON              nul           a line of NUL bytes
  bad-utf8       a frame with invalid UTF-8           glued         two frames on one line
  unknown        frames of unknown types, shapes      storm N K     N asks at once, K with one tool_use_id
  retry          a cut stream: api_retry, once again  api-error N   the API's error N: result is_error
  turn           a turn nobody asked for              task S        a background task ends after S seconds
  without-lifecycle  say nothing of messages          without-state   say nothing of running and idle
  without-pending    list no open asks                without-repeats run a uuid as often as it comes
  without-literal    obey /clear in any text          without-order   say completed before the result
  without-unknown    exit at an unknown request       without-prefix  run commands without the prefix

The demo model's ``create a file NAME with TEXT``, ``count to N slowly``, ``run `CMD` `` are understood too.

Standing behaviour: a JSON object in ``.fake-claude.json`` in the cwd, or at the path in
``FAKE_CLAUDE_PLAN``: ``{"start": WORDS done before reading, "every": WORDS added to each message,
"log_input": FILE (relative to the cwd) that gets every stdin line}``. Without a plan
``FAKE_CLAUDE_START`` gives the start. With "start", ``!sleep 3`` is a slow
start, ``!mute`` is never ready, ``!exit 3`` dies at once.
"""

from __future__ import annotations

import os


def build(target: str) -> str:
    """Pack this script and its parts into the one executable file ``target``; returns its path.

    Compiled parts go with it, which halves the time of a start; another Python takes the sources.
    """
    import importlib.util
    import marshal
    import zipfile

    parts = os.path.join(os.path.dirname(os.path.abspath(__file__)), "claude")
    with open(target, "wb") as file:
        file.write(b"#!/usr/bin/env -S python3 -IS\n")
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("__main__.py", "from claude.main import main\nmain()\n")
            for name in sorted(os.listdir(parts)):
                if name.endswith(".py"):
                    path = os.path.join(parts, name)
                    archive.write(path, f"claude/{name}")
                    with open(path, "rb") as source:
                        code = compile(source.read(), f"claude/{name}", "exec")
                    # PEP 552: by hash, not to be checked
                    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
                    archive.writestr(f"claude/{name}c", head + marshal.dumps(code))
    os.chmod(target, 0o755)
    return target


if __name__ == "__main__":
    from claude.main import main  # type: ignore[import-not-found]

    main()
