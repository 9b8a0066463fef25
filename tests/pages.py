"""What tests of written pages share: their code blocks, run or composed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#]+)")
COMMAND = re.compile(r"python train\.py([^#\n`]*)")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_python(text: str, name: str) -> None:
    """Run the Python blocks of a page, which continue each other, in the present directory."""
    source = "\n".join(blocks(text, "python"))
    exec(compile(source, name, "exec"), {"__name__": name.replace(".", "_")})


def jobs(command: str) -> Iterator[list[str]]:
    """Yield options of jobs that a command line of ``train.py`` stands for, each value once."""
    options = [word for word in shlex.split(command) if not word.startswith("-")]
    choices = []
    for override in OverridesParser.create().parse_overrides(options):
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line or ""])
    for i in range(max(map(len, choices), default=1)):
        yield [values[i % len(values)] for values in choices]


def compose_all(text: str) -> int:
    """Compose the jobs of each ``python train.py`` in a text; return how many there were."""
    count = 0
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for match in COMMAND.finditer(text.replace("\\\n", " ")):
            for options in jobs(match[1]):
                compose("config", options, return_hydra_config=True)
                count += 1
    return count
