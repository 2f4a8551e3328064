"""An authority that signs certificates for tests, with the `openssl` of the system."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """Its own certificate, and pairs that it signed."""

    def __init__(self, folder: Path) -> None:
        """`folder` is there and its own."""
        folder.chmod(0o755)
        self._folder = folder
        self._openssl("req", "-x509", *_fresh("ca"), "-days", "2", "-out", "ca.crt")
        self.certificate = folder / "ca.crt"

    def pair(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """Certificate and key, both PEM, for these DNS names."""
        names = "subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts)
        self._openssl("req", *_fresh(name), "-addext", names, "-out", f"{name}.csr")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "1", "-copy_extensions", "copy", "-out", f"{name}.crt",
        )  # fmt: skip
        return self._folder / f"{name}.crt", self._folder / f"{name}.key"

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)


def _fresh(name: str) -> list[str]:
    return [
        "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", f"{name}.key", "-subj", f"/CN={name}",
    ]  # fmt: skip
