"""Installing: whole or not at all, from a catalogue or a zip, checked later, taken away again."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from tiny_bundle import tiny_metadata, write_tiny_bundle
from web_server import Served, serving

from medseg.errors import DownloadError, MedsegError, ModelError, ModelNotFoundError, WriteError
from medseg.models.catalogue import CatalogueEntry, find_entry, read_catalogue
from medseg.models.download import Remote, check_address, file_checksum
from medseg.models.install import (
    PINS_FILE,
    Shelf,
    install_archive,
    install_entry,
    read_record,
    remove_model,
    verify_model,
)
from medseg.models.registry import BUNDLED_FOLDER, FOLDER_VARIABLE, find_model, list_models, read_card


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A bundle inside a folder inside a zip, as publishers pack them; no weights, which nobody reads here."""
    path = tmp_path / "tiny.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("configs/metadata.json", "configs/inference.json", "LICENSE"):
            file.write(BUNDLED_FOLDER / "brain-mri" / name, f"tiny_v1/{name}")
        file.writestr("tiny_v1/models/model.pt", b"weights")
    return path


def entry(*urls: str, checksum: str = "") -> CatalogueEntry:
    parts = tuple(Remote(url, checksum) for url in urls)
    return CatalogueEntry("tiny", "a tiny model", "monai-bundle", "MR", 1, "MIT", ("a",), parts)


def hidden_parts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith((".part", ".lock"))]


def test_a_model_of_a_zip_is_found_by_its_name_wherever_in_it_it_lies(archive: Path, models: Path) -> None:
    record = install_archive(archive, Shelf(models))
    assert record.roots == ("model/tiny_v1",)
    assert find_model("tiny") == (models / "tiny/model/tiny_v1").resolve()
    assert {e.name: e.shelf for e in list_models()}["tiny"] == "user"
    assert find_model(models / "tiny") == find_model("tiny")
    assert verify_model(models / "tiny") == record
    assert hidden_parts(models) == []


def test_a_model_is_fetched_checked_and_leaves_no_archive(archive: Path, models: Path) -> None:
    with serving({"tiny.zip": Served(archive.read_bytes(), break_after=2000)}) as root:
        record = install_entry(
            entry(f"{root}/tiny.zip", checksum=file_checksum(archive, "sha1")), Shelf(models)
        )
    assert record.licence == "MIT"
    assert sorted(path.name for path in models.iterdir()) == ["tiny"]


def test_a_folder_of_archives_installs_without_a_network(archive: Path, models: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with serving({"tiny.zip": Served(archive.read_bytes())}) as root:
        url = f"{root}/tiny.zip"
        install_entry(entry(url), Shelf(models, cache))
    shutil.rmtree(models)
    install_entry(entry(url), Shelf(models, cache))  # the server is gone
    assert (models / "tiny").is_dir()


def test_an_address_without_checksum_is_pinned_on_first_use(archive: Path, models: Path) -> None:
    served = Served(archive.read_bytes())
    with serving({"tiny.zip": served}) as root:
        install_entry(entry(f"{root}/tiny.zip"), Shelf(models))
        assert json.loads((models / PINS_FILE).read_text()) == {f"{root}/tiny.zip": file_checksum(archive)}
        before = read_record(models / "tiny")
        served.content = served.content + b"changed"
        with pytest.raises(DownloadError) as caught:
            install_entry(entry(f"{root}/tiny.zip"), Shelf(models), replace_old=True)
    assert caught.value.code == "CHECKSUM_CHANGED"
    assert verify_model(models / "tiny") == before


def test_a_model_of_several_archives_is_one_model(models: Path, tmp_path: Path) -> None:
    formats = tiny_metadata()["network_data_format"]
    names = {"0": "background", "1": "heart", "2": "left lung", "3": "right lung"}
    other = formats | {"outputs": {"pred": formats["outputs"]["pred"] | {"channel_def": names}}}
    write_tiny_bundle(tmp_path / "a" / "blobs", seed=1)
    write_tiny_bundle(tmp_path / "b" / "chest", metadata={"network_data_format": other, "medseg": {}}, seed=2)
    served = {}
    for part in ("a", "b"):
        zipped = shutil.make_archive(str(tmp_path / part), "zip", tmp_path / part)
        served[f"{part}.zip"] = Served(Path(zipped).read_bytes())
    with serving(served) as root:
        record = install_entry(entry(f"{root}/a.zip", f"{root}/b.zip"), Shelf(models))
    assert record.roots == ("part-1/blobs", "part-2/chest")
    assert verify_model(models / "tiny") == record
    card = read_card(find_model("tiny"))
    assert card.name == "tiny"
    assert set(names.values()) - {"background"} < set(card.labels.names.values())


def test_a_wrong_checksum_installs_nothing(archive: Path, models: Path) -> None:
    with serving({"tiny.zip": Served(archive.read_bytes())}) as root, pytest.raises(DownloadError) as caught:
        install_entry(entry(f"{root}/tiny.zip", checksum="sha256:" + "0" * 64), Shelf(models))
    assert caught.value.code == "CHECKSUM_MISMATCH"
    assert list_models()[-1].shelf == "bundled"


def test_a_model_of_the_same_name_is_replaced_only_when_asked(archive: Path, models: Path) -> None:
    install_archive(archive, Shelf(models))
    with pytest.raises(WriteError) as caught:
        install_archive(archive, Shelf(models))
    assert caught.value.code == "MODEL_EXISTS"
    (models / "tiny/model/tiny_v1/LICENSE").write_text("changed")
    install_archive(archive, Shelf(models), replace_old=True)
    verify_model(models / "tiny")


@pytest.mark.parametrize("harm", ["change", "delete", "add"])
def test_verify_names_what_is_wrong(harm: str, archive: Path, models: Path) -> None:
    install_archive(archive, Shelf(models))
    victim = models / "tiny/model/tiny_v1/models/model.pt"
    if harm == "change":
        victim.write_bytes(b"weightz")
    elif harm == "delete":
        victim.unlink()
    else:
        victim.with_name("more.pt").write_bytes(b"")
    with pytest.raises(
        ModelError, match=r"1 missing, changed or foreign \(model/tiny_v1/models/mo"
    ) as caught:
        verify_model(models / "tiny")
    assert caught.value.code == "MODEL_DAMAGED"


def test_what_was_installed_can_be_removed_and_nothing_else(archive: Path, models: Path) -> None:
    install_archive(archive, Shelf(models))
    (models / "own").mkdir()
    for name in ("own", "brain-mri", "..", "../models/tiny", "", "."):
        with pytest.raises(ModelNotFoundError) as caught:
            remove_model(name, models)
        assert caught.value.code == "NOT_INSTALLED"
    remove_model("tiny", models)
    assert sorted(path.name for path in models.iterdir()) == ["own"]


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"../evil": b"x"}, "ARCHIVE_UNSAFE"),
        ({"/evil": b"x"}, "ARCHIVE_UNSAFE"),
        ({"a/../../evil": b"x"}, "ARCHIVE_UNSAFE"),
        ({"C:/evil": b"x"}, "ARCHIVE_UNSAFE"),
        ({"..\\evil": b"x"}, "ARCHIVE_UNSAFE"),
        ({"LICENSE": b"x", "license": b"y"}, "ARCHIVE_UNSAFE"),
        ({"readme": b"no model"}, "NO_MODEL_INSIDE"),
        ({}, "NO_MODEL_INSIDE"),
    ],
)
def test_a_hostile_zip_writes_nothing(
    members: dict[str, bytes], code: str, tmp_path: Path, models: Path
) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    with pytest.raises(ModelError) as caught:
        install_archive(path, Shelf(models))
    assert caught.value.code == code
    assert not list(tmp_path.rglob("*evil*"))
    assert not models.exists() or list(models.iterdir()) == []


def test_links_bombs_and_damage_are_refused(tmp_path: Path, models: Path, archive: Path) -> None:
    linked, bomb, cut = tmp_path / "linked.zip", tmp_path / "bomb.zip", tmp_path / "cut.zip"
    with zipfile.ZipFile(linked, "w") as file:
        file.writestr(link("a"), "/etc/passwd")
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file,
        file.open("b", "w") as member,
    ):
        for _ in range(110):
            member.write(bytes(10**6))
    cut.write_bytes(archive.read_bytes()[:-300])
    for path, code in ((linked, "ARCHIVE_UNSAFE"), (bomb, "ARCHIVE_TOO_LARGE"), (cut, "BAD_ARCHIVE")):
        with pytest.raises(ModelError) as caught:
            install_archive(path, Shelf(models))
        assert caught.value.code == code


@pytest.mark.parametrize("name", ["../x", "a b", ".hidden", "-x", "ü", "a/b"])
def test_a_name_that_is_no_plain_word_is_refused(name: str, archive: Path, models: Path) -> None:
    with pytest.raises(ModelError) as caught:
        install_archive(archive, Shelf(models), name=name)
    assert caught.value.code == "BAD_MODEL_NAME"


def test_the_catalogue_can_be_followed() -> None:
    entries = read_catalogue()
    assert len({e.name for e in entries}) == len(entries) >= 40
    assert {e.family for e in entries} == {"monai-bundle", "nnunet", "auto3dseg"}
    for found in entries:
        assert all((found.licence, found.title, found.parts))
        for part in found.parts:
            check_address(part.url)
            assert not part.checksum or part.checksum.split(":")[0] in ("sha1", "sha256")
    assert len(find_entry("total").parts) == 5
    assert len(find_entry("total").structures) == 117


def test_a_name_that_is_misspelt_is_answered_with_those_like_it() -> None:
    with pytest.raises(MedsegError, match="spleen_ct_segmentation"):
        find_entry("spleen-ct")
