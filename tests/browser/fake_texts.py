"""Texts for the fake site: a sample of all markdown that the page draws, and text that must stay inert."""

from __future__ import annotations

MARKDOWN = """# A plan for the parser

Here is what I found in `projects/app`. The parser **reads** the file *once* and keeps
[a table](https://example.org/table) of offsets; see https://example.org/notes for more.

## Steps

1. Read the file
2. Split it into lines
   - empty lines are skipped
   - comments begin with `#`
3. Build the table

- [x] tests exist
- [ ] they cover errors

> A line that is too long is cut, not refused.

```python
def parse(lines: list[str]) -> dict[str, int]:
    \"\"\"Offsets by name.\"\"\"
    return {line.split("=")[0]: at for at, line in enumerate(lines) if line and not line.startswith("#")}
```

| part | lines | state |
|---|---:|:---:|
| reader | 120 | done |
| table | 48 | open |

---

That is all.
"""

INERT = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload=window.pwned=1></svg>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "[click](javascript:window.pwned=1)",
    "[click](JaVaScRiPt:window.pwned=1)",
    "[click](java\tscript:window.pwned=1)",
    "[click](&#106;avascript:window.pwned=1)",
    "[click](data:text/html,<script>window.pwned=1</script>)",
    "[click](vbscript:msgbox)",
    "[click](//evil.example/)",
    "<javascript:window.pwned=1>",
    "![x](https://evil.example/track.png)",
    "![x](javascript:window.pwned=1)",
    '[a](https://good.example/" onmouseover="window.pwned=1)',
    "`<script>window.pwned = 1</script>`",
    "```html\n<script>window.pwned = 1</script>\n```",
    "| <img src=x onerror=window.pwned=1> | b |\n|---|---|\n| <script>window.pwned=1</script> | c |",
    "# <img src=x onerror=window.pwned=1>",
    "- <details open ontoggle=window.pwned=1>",
    "> <style>body{display:none}</style>",
    "**<b onclick=window.pwned=1>bold</b>**",
    "</div></article><script>window.pwned=1</script>",
    '```"><img src=x onerror=window.pwned=1>\ncode\n```',
)
