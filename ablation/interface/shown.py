"""The report's pictures, as a notebook shows them."""

import re
from dataclasses import dataclass
from pathlib import Path

from ablation.reports.pages import Picture
from ablation.system.errors import ConfigError, Problem, shorten
from ablation.system.files import write_asked_for

WHITE = '<rect width="100%" height="100%" fill="white"/>'


@dataclass(frozen=True, repr=False)
class Shown:
    """A picture that a notebook shows, and prints in words."""

    picture: Picture

    def _repr_svg_(self) -> str:
        """The picture on white, as a notebook's own background does not follow the system's."""
        svg = self.picture.wide.decode().replace("(prefers-color-scheme:dark)", "not all")
        return re.sub("</style>", f"</style>{WHITE}", svg, count=1)

    def __repr__(self) -> str:
        return self.picture.description

    def save(self, path: str | Path) -> None:
        """Write it to a file, as SVG.

        Raises:
            ConfigError: the path has not the ending .svg.
            DataError: it cannot be written.
        """
        if not isinstance(path, str | Path) or Path(path).suffix.lower() != ".svg":
            sentence = "a picture is SVG; give a name that ends in .svg"
            raise ConfigError([Problem(shorten(path, form=repr), sentence)])
        write_asked_for(str(path), Path(path), self._repr_svg_().encode())


def show(picture: Picture | None) -> Shown | None:
    """A picture for a notebook, if there is one."""
    return picture and Shown(picture)
