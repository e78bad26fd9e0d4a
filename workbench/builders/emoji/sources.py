"""Where the drawings and words come from: npm packages at pinned versions, and the licence of each drawing style.

The trap: a licence belongs to a style, not to a package registry page, so it is written down here and compared with
what the package itself says. A style whose licence changed stops the build.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PACKAGES = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@iconify-json/emojione": "1.2.3",
    "@iconify-json/emojione-monotone": "1.2.1",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/openmoji": "1.2.29",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "openmoji": "17.0.0",
    "emojibase-data": "17.0.0",
    "emojilib": "4.0.3",
}

SHARE_ALIKE = "CC-BY-SA-4.0"

MICROSOFT, GOOGLE, EMOJIONE, OPENMOJI = (
    "Microsoft Corporation, Fluent Emoji, https://github.com/microsoft/fluentui-emoji",
    "Google LLC, Noto Emoji, https://github.com/googlefonts/noto-emoji",
    "EmojiOne 2 and Emojitwo, https://github.com/EmojiTwo/emojitwo",
    "OpenMoji, the open-source emoji and icon project, https://openmoji.org",
)


@dataclass(frozen=True)
class Style:
    """One vendor's drawing style. Its drawings of training concepts go to the file named by `part`.

    `stated` is the licence that the package gives, where that is another one than the drawings'.
    """

    name: str
    package: str
    vendor: str
    licence: str
    credit: str
    part: Literal["train", "style_a", "style_b"] = "train"
    stated: str = ""


# Training styles come first: where two styles of a concept are the same picture, the first one is kept.
# Fluent's gradient SVG set is left out: `fluent-emoji-3d` is the same artwork, already rasterised.
# EmojiOne 1 is left out: it is share-alike, and its drawings are earlier versions of EmojiOne 2's.
STYLES = (
    Style("noto", "@iconify-json/noto", "google", "Apache-2.0", GOOGLE),
    Style("noto-v1", "@iconify-json/noto-v1", "google", "Apache-2.0", GOOGLE),
    Style(
        "twemoji",
        "@iconify-json/twemoji",
        "twitter",
        "CC-BY-4.0",
        "Twitter, Inc and other contributors, Twemoji, https://github.com/jdecked/twemoji",
    ),
    Style("fluent-emoji-flat", "@iconify-json/fluent-emoji-flat", "microsoft", "MIT", MICROSOFT),
    Style("fluent-emoji-high-contrast", "@iconify-json/fluent-emoji-high-contrast", "microsoft", "MIT", MICROSOFT),
    Style(
        "fluent-emoji-3d",
        "@lobehub/fluent-emoji-3d",
        "microsoft",
        "MIT",
        f"{MICROSOFT}; packaged by LobeHub, https://github.com/lobehub/fluent-emoji",
    ),
    Style("emojione", "@iconify-json/emojione", "emojione", "CC-BY-4.0", EMOJIONE),
    Style("emojione-monotone", "@iconify-json/emojione-monotone", "emojione", "CC-BY-4.0", EMOJIONE),
    Style(
        "fxemoji",
        "@iconify-json/fxemoji",
        "mozilla",
        "CC-BY-4.0",
        "Mozilla Foundation, FxEmojis, https://github.com/mozilla/fxemoji",
        part="style_a",
        stated="Apache-2.0",  # FxEmojis' LICENSE.md: that is the code's; the visual design is under CC-BY-4.0
    ),
    Style("openmoji", "@iconify-json/openmoji", "openmoji", SHARE_ALIKE, OPENMOJI, part="style_b"),
    Style("openmoji-black", "openmoji", "openmoji", SHARE_ALIKE, OPENMOJI, part="style_b"),
)

EMOJIBASE = "emojibase, © Miles Johnson, https://github.com/milesj/emojibase"

# what · credit · package · licence
WORDS = (
    (
        "names and keywords",
        f"Unicode CLDR, © Unicode, Inc., https://cldr.unicode.org, by way of {EMOJIBASE}",
        "emojibase-data",
        "Unicode-3.0, MIT",
    ),
    ("shortcodes", f"{EMOJIBASE}, with those of GitHub and of iamcal's emoji-data", "emojibase-data", "MIT"),
    ("more keywords", "emojilib, © Mu-An Chiou, https://github.com/muan/emojilib", "emojilib", "MIT"),
)


def fetch(sources: Path) -> Path:
    """Install the pinned packages under `sources` and return its node_modules. Does nothing when they are there.

    Raises ValueError when npm is missing or fails.
    """
    modules = sources / "node_modules"
    if all(_installed(modules / name) == version for name, version in PACKAGES.items()):
        return modules
    if shutil.which("npm") is None:
        raise ValueError("npm is not on the PATH: install Node.js, which the emoji set is built with")
    sources.mkdir(parents=True, exist_ok=True)
    # npm climbs to the nearest package.json: without one here it would install into the folder of another project
    (sources / "package.json").write_text('{"name": "emoji-sources", "private": true}\n')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=peer", "--omit=optional"]
    pins = [f"{name}@{version}" for name, version in PACKAGES.items()]
    done = subprocess.run(
        [*command, "--save-exact", "--loglevel=error", *pins], cwd=sources, capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(f"npm could not install the emoji sources in {sources}:\n{done.stderr.strip()}")
    return modules


def check_licence(modules: Path, style: Style) -> None:
    """Raises ValueError when the package of `style` states another licence than `STYLES` expects."""
    package = modules / style.package
    collection = package / "info.json"
    if collection.exists():  # an Iconify collection has a licence of its own beside the package's
        stated = json.loads(collection.read_text())["license"]["spdx"]
    else:
        stated = json.loads((package / "package.json").read_text())["license"]
    expected = style.stated or style.licence
    if stated != expected:
        raise ValueError(f"{style.package} is under {stated}, STYLES says {expected}: review both")


def _installed(package: Path) -> str | None:
    manifest = package / "package.json"
    return json.loads(manifest.read_text())["version"] if manifest.exists() else None


class IconSet:
    """An Iconify collection: named SVG bodies, aliases among them and, in some, a map from code points to names."""

    def __init__(self, modules: Path, style: Style) -> None:
        package = modules / style.package
        self._set = json.loads((package / "icons.json").read_text())
        characters = package / "chars.json"
        self.characters: dict[str, str] = json.loads(characters.read_text()) if characters.exists() else {}

    def names(self) -> Iterator[str]:
        yield from self._set["icons"]
        yield from self._set.get("aliases", {})

    def svg(self, name: str) -> str:
        """Write a whole SVG document of the icon called `name`; monochrome icons are drawn near black."""
        aliases = self._set.get("aliases", {})
        while name in aliases:
            name = aliases[name]["parent"]
        icon = self._set["icons"][name]
        width, height = (icon.get(side, self._set.get(side)) for side in ("width", "height"))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" '
            f'width="{width}" height="{height}">{icon["body"]}</svg>'
        ).replace("currentColor", "#222")
