"""`python -m tests.idle_node FOLDER PORT GRACE_S`: serves nothing but health, as every process of ours does."""

import sys
from pathlib import Path

import uvloop

from service.credential import Credentials
from service.serve import serve
from service.settings import NodeSettings
from service.web import build_app


def main(folder: Path, port: int, grace_s: float) -> None:
    (folder / "credentials.json").write_text("{}")
    settings = NodeSettings.model_construct(region="eu", port=port, drain_grace_s=grace_s)
    uvloop.run(serve(build_app(settings, Credentials(folder / "credentials.json"))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
