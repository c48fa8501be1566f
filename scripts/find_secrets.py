"""Look for secrets in the files that are about to be committed; exit with 1 and name the places if there are any.

Usage: find_secrets.py FILE...; without files, all that git tracks.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PATTERNS = {
    "a Discord webhook": re.compile(r"discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d{17,}/[\w-]{60,}"),
    "a Discord bot token": re.compile(r"\b[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,}\b"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"),
    "an access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
}


def secrets_in(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and kind of each secret in the text."""
    for number, line in enumerate(text.splitlines(), start=1):
        for kind, pattern in PATTERNS.items():
            if pattern.search(line):
                yield number, kind


def main(paths: list[str]) -> int:
    """Print every finding and return the exit code."""
    if not paths:
        paths = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = False
    for path in paths:
        if not Path(path).is_file():
            continue
        for number, kind in secrets_in(Path(path).read_text(encoding="utf-8", errors="replace")):
            print(f"{path}:{number}: {kind}")  # the secret itself is not repeated
            found = True
    return int(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
