"""What the user chose once and wants to find again: napari's own plugin preferences, kept on disk.

`File > Preferences > medseg` shows them; panels read them when they open and write back what is chosen.
"""

from __future__ import annotations

from typing import Any

PLUGIN = "medseg"


def preference(section: str, key: str, default: Any = None) -> Any:
    """A preference, or the default where the plugin is used without being installed.

    Args:
        section: `"compute"`, `"files"` or `"last"`, as in the manifest.
        key: of a property of it.
        default: what counts where napari does not know the plugin.
    """
    settings = _settings()
    return default if settings is None else getattr(getattr(settings, section), key)


def remember(section: str, key: str, value: Any) -> None:
    """Keep a choice for the next start; saved at once."""
    settings = _settings()
    if settings is not None:
        setattr(getattr(settings, section), key, value)


def _settings() -> Any:
    from napari.settings import get_plugin_settings

    return get_plugin_settings().get(PLUGIN)
