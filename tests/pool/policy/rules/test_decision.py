"""What is allowed, asked about and denied: the corpus, and whatever Hypothesis thinks of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import BadRequest
from pool.policy.rules.commands import take_apart
from pool.policy.rules.decision import NO_DECISION, Decision, Kind, Rules, ToolCall, compile_rules, decide
from pool.policy.rules.paths import Places
from pool.policy.rules.shell_words import MAX_CHARACTERS
from tests.pool.policy.rules.command_corpus import CORPUS, PATH_CORPUS, PATH_RULES, PLACES, RULES


def bash(command: str, rules: Rules = RULES, mode: str = "default") -> Decision:
    return decide(rules, ToolCall(tool="Bash", given={"command": command}, places=PLACES, mode=mode))


def use(rules: Rules, tool: str, **given: object) -> Decision:
    return decide(rules, ToolCall(tool=tool, given=given, places=PLACES))


@pytest.mark.parametrize(("wanted", "command"), CORPUS)
def test_the_corpus(wanted: str, command: str) -> None:
    decision = bash(command)
    assert decision.kind.value == wanted, decision


@pytest.mark.parametrize(("wanted", "command"), PATH_CORPUS)
def test_the_corpus_where_paths_are_denied(wanted: str, command: str) -> None:
    decision = bash(command, PATH_RULES)
    assert decision.kind.value == wanted, decision


def test_the_corpus_is_large() -> None:
    commands = {command for _, command in (*CORPUS, *PATH_CORPUS)}
    assert len(commands) >= 150


def test_without_rules_nothing_is_decided() -> None:
    for _, command in CORPUS:
        assert bash(command, Rules()) == NO_DECISION
    assert use(Rules(), "Write", file_path="/etc/passwd") == NO_DECISION
    assert Rules().is_empty


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("make", Kind.NONE),
        ("echo x > y", Kind.NONE),
        ("rm x", Kind.DENY),
        ("f() { x; }", Kind.ASK),
        ("$X", Kind.ASK),
    ],
)
def test_deny_rules_alone_leave_the_rest_to_the_cli(command: str, wanted: Kind) -> None:
    assert bash(command, compile_rules(denied_commands=["rm"])).kind is wanted


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("rm -rf x", "deny"),
        ("rm -fr x", "deny"),
        ("rm -r -f x", "deny"),
        ("rm x -rvf", "deny"),
        ("rm -r x", "allow"),
        ("rm -r --force x", "ask"),
        ("rm --recursive --force x", "ask"),
        ("rm -r $X", "ask"),
        ("rm x", "allow"),
        ("docker run --privileged x", "deny"),
        ("docker run --priv x", "deny"),
        ("docker --host h run -it --privileged=true x", "deny"),
        ("docker ps", "allow"),
        ("docker logs run", "allow"),
        ("docker logs --tail run", "allow"),
        ("kubectl -n prod delete pod x", "deny"),
        ("kubectl get delete", "allow"),
    ],
)
def test_a_deny_rule_looks_through_the_order_and_form_of_flags(command: str, wanted: str) -> None:
    rules = compile_rules(
        allowed_commands=["*"],
        denied_commands=["rm -rf *", "docker run --privileged *", "kubectl delete *"],
    )
    assert bash(command, rules).kind.value == wanted


def test_a_decision_names_its_rule() -> None:
    decision = bash("cd docs && rm -rf x")
    assert (decision.kind, decision.rule) == (Kind.DENY, "rm")
    assert decision.reason == "'rm -rf x' is denied by the rule 'rm'"
    assert bash("cd docs && git log -1").rule == "cd *, git log *"


# --- paths ------------------------------------------------------------------------------------

PATHS = compile_rules(
    allowed_paths=["docs", "*.md", "/tmp/**/cache", "~/notes"],
    denied_paths=["docs/private/**", "*.pem", "/etc/shadow"],
)


@pytest.mark.parametrize(
    ("tool", "path", "wanted"),
    [
        ("Read", "/workspace/docs/a", "allow"),
        ("Edit", "/workspace/docs/deep/er/a", "allow"),
        ("Write", "docs/a", "allow"),
        ("Write", "./x/../docs/a", "allow"),
        ("Write", "/workspace/docs", "allow"),
        ("Write", "/workspace/a/b/README.md", "allow"),
        ("Write", "/tmp/a/b/cache/x", "allow"),
        ("Write", "/tmp/cache", "allow"),
        ("Read", "~/notes/today", "allow"),
        ("Read", "/home/claude/notes", "allow"),
        ("NotebookEdit", "/workspace/docs/a.ipynb", "allow"),
        ("Write", "/workspace/docs/../src/a", "ask"),
        ("Write", "/workspace/docs/../../etc/passwd", "ask"),
        ("Write", "/workspace/docsx/a", "ask"),
        ("Write", "/README.md", "ask"),
        ("Read", "~other/notes", "ask"),
        ("Read", "/proc/self/cwd/docs/a", "ask"),
        ("Read", "/proc/1/root/workspace/docs/a", "ask"),
        ("Read", "/dev/fd/3", "ask"),
        ("Read", "", "ask"),
        ("Read", "docs/a\0", "ask"),
        ("Read", "/workspace/docs/private/a", "deny"),
        ("Read", "docs/./private//a", "deny"),
        ("Read", "/workspace/x/../docs/private", "deny"),
        ("Edit", "/anywhere/key.pem", "deny"),
        ("Read", "//etc/./shadow", "deny"),
        ("Read", "../etc/shadow", "deny"),
    ],
)
def test_paths(tool: str, path: str, wanted: str) -> None:
    field = "notebook_path" if tool.startswith("Notebook") else "file_path"
    decision = use(PATHS, tool, **{field: path})
    assert decision.kind.value == wanted, decision


@pytest.mark.parametrize(
    ("tool", "given", "wanted"),
    [
        ("Grep", {"pattern": "x", "path": "/workspace/docs/private"}, "deny"),
        ("Grep", {"pattern": "x", "path": "/workspace"}, "ask"),
        ("Grep", {"pattern": "x"}, "ask"),
        ("Glob", {"pattern": "docs/private/*"}, "deny"),
        ("Glob", {"pattern": "/etc/shadow"}, "deny"),
        ("Glob", {"pattern": "*/../../etc/*", "path": "docs"}, "ask"),
        ("LS", {"path": "docs/private/x"}, "deny"),
    ],
)
def test_searches(tool: str, given: dict[str, object], wanted: str) -> None:
    assert use(PATHS, tool, **given).kind.value == wanted


def test_a_search_below_an_allowed_path_is_allowed() -> None:
    rules = compile_rules(allowed_paths=["docs"], denied_paths=["docs/private", "/etc"])
    assert use(rules, "Grep", pattern="x", path="docs/public").kind is Kind.ALLOW
    assert use(rules, "Glob", pattern="**/*.md", path="docs/public").kind is Kind.ALLOW
    assert use(rules, "Glob", pattern="../private/*.md", path="docs/public").kind is Kind.DENY
    assert use(rules, "Grep", pattern="x", path="docs").kind is Kind.ASK


def test_where_places_are_not_known_deny_rules_fit_more_and_allow_rules_less() -> None:
    nowhere = Places(cwd=None)
    rules = compile_rules(allowed_paths=["docs", "~/notes"], denied_paths=["a/b", "~/.ssh"])
    for path, wanted in [
        ("/x/docs", "ask"),
        ("/x/notes", "ask"),
        ("/x/a/b/c", "deny"),
        ("/x/.ssh/k", "deny"),
    ]:
        call = ToolCall(tool="Read", given={"file_path": path}, places=nowhere)
        assert decide(rules, call).kind.value == wanted


# --- tools ------------------------------------------------------------------------------------


def test_tools_are_decided_only_when_a_rule_names_them() -> None:
    rules = compile_rules(allowed_commands=["tool:mcp__docs__*"], denied_commands=["tool:WebFetch"])
    assert use(rules, "mcp__docs__search").kind is Kind.ALLOW
    assert use(rules, "WebFetch", url="https://example.org").kind is Kind.DENY
    assert use(rules, "WebSearch") == NO_DECISION
    assert use(RULES, "WebSearch") == NO_DECISION
    assert use(RULES, "AskUserQuestion", questions=[]) == NO_DECISION


def test_a_tool_rule_allows_what_is_only_unlisted() -> None:
    rules = compile_rules(allowed_commands=["tool:Bash"], denied_commands=["rm"], denied_paths=["/etc"])
    assert bash("make", rules).kind is Kind.ALLOW
    assert bash("rm x", rules).kind is Kind.DENY
    assert bash("cat /etc/passwd", rules).kind is Kind.DENY
    assert bash("$X", rules).kind is Kind.ASK


def test_planning_is_not_widened() -> None:
    assert bash("git log", mode="plan") == NO_DECISION
    assert bash("rm x", mode="plan").kind is Kind.DENY
    assert bash("make", mode="acceptEdits").kind is Kind.ASK


@pytest.mark.parametrize("given", [{}, {"command": 1}, {"command": None}, {"command": ["rm"]}])
def test_a_call_of_another_shape_is_asked_about(given: dict[str, object]) -> None:
    assert use(RULES, "Bash", **given).kind is Kind.ASK
    assert use(PATHS, "Write", **given).kind is Kind.ASK


def test_leaving_the_clis_own_sandbox_is_asked_about() -> None:
    assert use(RULES, "Bash", command="git log", dangerouslyDisableSandbox=True).kind is Kind.ASK


HUGE = ["git log; ", "echo $(", "`", "sudo a ", "eval ", "env ", "'", "rm -", "{", "\n<<E", "sudo 'a b' "]


@pytest.mark.parametrize("piece", HUGE)
@pytest.mark.parametrize("size", [MAX_CHARACTERS, 10 * MAX_CHARACTERS])
def test_what_is_too_much_to_look_at_is_not_allowed(piece: str, size: int) -> None:
    everything = compile_rules(allowed_commands=["*"], denied_commands=["shutdown"])
    command = (piece * size)[:size]
    assert bash(command, everything).kind is Kind.ASK
    assert bash(command + " git log", everything).kind is Kind.ASK


def test_a_path_that_is_too_long_is_not_allowed() -> None:
    assert use(PATHS, "Read", file_path="docs/" + "a/" * 4096).kind is Kind.ASK


@pytest.mark.parametrize(
    "bad",
    [
        {"denied_commands": ["rm; x"]},
        {"denied_commands": [""]},
        {"allowed_commands": ["git log | head"]},
        {"allowed_commands": ["echo $X"]},
        {"allowed_commands": ["echo 'open"]},
        {"allowed_paths": [" "]},
        {"denied_paths": ["a/../b"]},
    ],
)
def test_a_rule_that_is_none_is_refused_by_name(bad: dict[str, list[str]]) -> None:
    with pytest.raises(BadRequest, match=next(iter(bad))):
        compile_rules(**bad)


# --- whatever there is -------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *("rm", "r\\m", "'rm'", "git", "log", "x", "-rf", "sh", "-c", "eval", "env", "A=b", "xargs", "sudo"),
        *(";", "&&", "||", "|", "&", "\n", "(", ")", "{", "}", "$(", "`", '"', "'", "\\", "<(", ">", "<"),
        *(
            "<<EOF",
            "<<<",
            "EOF",
            "$X",
            "${X}",
            "$((",
            "[[",
            "]]",
            "if",
            "then",
            "fi",
            "for",
            "in",
            "do",
            "done",
        ),
        *(
            "case",
            "esac",
            "#",
            "!",
            "*",
            "{a,b}",
            "find",
            "-exec",
            "\\;",
            "+",
            "timeout",
            "5",
            "é",
            "\0",
            " ",
        ),
    ]
)


@given(
    st.one_of(
        st.text(max_size=80), st.lists(PIECES, max_size=24).map(" ".join), st.lists(PIECES).map("".join)
    )
)
def test_no_text_raises(command: str) -> None:
    everything = compile_rules(
        allowed_commands=["*"], denied_commands=["rm -rf *"], allowed_paths=["/"], denied_paths=["a/**"]
    )
    for rules in (everything, RULES, PATH_RULES):
        assert bash(command, rules).kind in Kind


HIDE = st.sampled_from(
    [
        "rm",
        "r'm'",
        '"rm"',
        "\\rm",
        "r\\m",
        "/bin/rm",
        "$'\\x72m'",
        "r\\\nm",
        "command rm",
        "env -i rm",
        "sudo rm",
    ]
)
AROUND = st.sampled_from(
    [
        *(
            "{0}",
            "git log; {0}",
            "{0} && git log",
            "git log | {0}",
            "git log\n{0}",
            "({0})",
            "{{ {0}; }}",
            "! {0}",
        ),
        *(
            "echo $({0})",
            'echo "$({0})"',
            "git log <({0})",
            "if true; then {0}; fi",
            "for f in a; do {0}; done",
        ),
        *(
            "cat <<EOF\n$({0})\nEOF",
            "timeout 5 {0}",
            "nohup {0}",
            "xargs {0}",
            "find . -exec {0} \\;",
            "time {0}",
        ),
        *("git log &\n{0} &", "A=b {0}", "{0} > /dev/null", "echo a # b\n{0}", "eval {0}"),
    ]
)


@given(HIDE, st.lists(AROUND, max_size=4), st.sampled_from(["", " x", " -rf /"]))
def test_a_denied_word_is_found_however_deep(hidden: str, around: list[str], rest: str) -> None:
    command = hidden + rest
    for shape in around:
        command = shape.format(command)
    rules = compile_rules(allowed_commands=["*"], denied_commands=["rm"], allowed_paths=["/"])
    assert bash(command, rules).kind in (Kind.DENY, Kind.ASK), command


@given(st.lists(PIECES, max_size=12).map(" ".join))
def test_what_is_allowed_has_no_denied_command_in_its_parse(command: str) -> None:
    rules = compile_rules(allowed_commands=["*"], denied_commands=["rm"], allowed_paths=["/"])
    if bash(command, rules).kind is Kind.ALLOW:
        steps = take_apart(command).steps
        assert steps
        assert not any(step.command.words and step.command.words[0].text == "rm" for step in steps)
        assert all(step.command.words[0].is_known for step in steps if step.needs_rule)
