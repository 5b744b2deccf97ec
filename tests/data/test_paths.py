"""Which image a name means: hidden files, links, names of other machines, stems that two images share."""

import shutil
from pathlib import Path

import pytest
from scenes import (
    CSV,
    MAKERS,
    SIZES,
    coco_json,
    csv_rows,
    make_coco,
    make_coco_plain,
    make_csv,
    make_voc_roboflow,
    make_yolo,
    make_yolo_flat,
    make_yolo_lists,
    make_yolo_obj_data,
    make_yolo_roboflow,
    only,
    scene,
    voc_xml,
    write_image,
    write_json,
    write_text,
    yolo_lines,
)

from tfyolo.data.readers import read, splits
from tfyolo.data.sources.source import DataError

# --- what is nobody's data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", MAKERS)
def test_hidden_files_are_nobodys_data_in_any_layout(layout, tmp_path):
    root = MAKERS[layout](tmp_path)
    split = splits(root)[0]
    clean = read(root, split)
    folders = [root, *(folder for folder in root.rglob("*") if folder.is_dir())]
    for folder in folders:
        first = next((file for file in sorted(folder.iterdir()) if file.is_file()), None)
        for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
            (folder / hidden).mkdir()
            if first:
                shutil.copy(first, folder / hidden / first.name)
                shutil.copy(first, folder / hidden / f"{first.stem}-checkpoint{first.suffix}")
        for file in [file for file in folder.iterdir() if file.is_file()]:
            (folder / f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
            (folder / name).write_bytes(b"\1\2\3")
    write_text(root / ".idea/misc.xml", '<project version="4"/>')
    write_json(root / ".vscode/settings.json", {"images": [], "annotations": [], "categories": []})
    again = read(root, split)
    assert (again.format, again.classes, again.problems) == (clean.format, clean.classes, clean.problems)
    assert [record.path for record in again.records] == [record.path for record in clean.records]
    assert splits(root) == splits(root)


def test_links_are_followed_and_loops_are_not(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "images/train/two.jpg").rename(tmp_path / "store/two.jpg")
    (tmp_path / "images/train/more").symlink_to("../../store")
    (tmp_path / "labels/train/more").mkdir()
    (tmp_path / "labels/train/two.txt").rename(tmp_path / "labels/train/more/two.txt")
    (tmp_path / "images/train/again").symlink_to("..")
    (tmp_path / "images/train/nowhere").symlink_to("nowhere")
    source = read(tmp_path)
    assert sorted(Path(record.path).name for record in source.records) == ["one.jpg", "two.jpg"]
    scene(source)
    only(source.problems, "again", "leads back", severity="warning")


def test_a_link_that_git_wrote_as_text_is_told(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "images/train/more").write_text("../../store")
    only(read(tmp_path).problems, "more", "written as text", severity="warning")


def test_images_of_one_stem_are_both_there(tmp_path):
    make_yolo_flat(tmp_path)
    write_image(tmp_path / "images/one.png", SIZES["one"], ".png")
    source = read(tmp_path, "all")
    assert [Path(record.path).name for record in source.records] == ["one.jpg", "one.png", "two.jpg"]
    assert [len(record.boxes) for record in source.records] == [2, 2, 1]
    assert len({record.image_id for record in source.records}) == 3
    only(source.problems, "one.png", "the same label file", severity="warning")


@pytest.mark.parametrize("named", ["one.png", "one.jpg", "other.jpg"])
def test_an_xml_of_two_images_is_the_ones_that_it_names(named, tmp_path):
    make_voc_roboflow(tmp_path)
    write_image(tmp_path / "train/one.png", SIZES["one"], ".png")
    write_text(tmp_path / "train/one.xml", voc_xml("one", filename=named))
    source = read(tmp_path)
    taken = "one.jpg" if named == "other.jpg" else named
    assert sorted(Path(record.path).name for record in source.records) == [taken, "two.jpg"]
    left_out = {"one.png": "one.jpg"}.get(taken, "one.png")
    assert any(left_out in problem.file or left_out in problem.message for problem in source.problems)


# --- paths of elsewhere -----------------------------------------------------------------------------------------------

ELSEWHERE = [
    "/home/me/pets/{}",
    "C:\\Users\\me\\pets\\{}",
    "..\\pets\\{}",
    "file:///data/upload/1/{}",
    "/data/local-files/my%20pets/{}",
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_names_of_another_machine_are_found_by_their_ends(path, tmp_path):
    def elsewhere(stem):
        return path.format(f"{stem}.jpg")

    for stem, size in SIZES.items():
        write_image(tmp_path / "coco/images" / f"{stem}.jpg", size)
        write_image(tmp_path / "csv/images" / f"{stem}.jpg", size)
    content = coco_json()
    for image, stem in zip(content["images"], SIZES, strict=True):
        image["file_name"] = elsewhere(stem)
    write_json(tmp_path / "coco/train.json", content)
    rows = [row.split(",", 1) for row in csv_rows()]
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    write_text(tmp_path / "csv/train.csv", header, *(f"{elsewhere(Path(name).stem)},{rest}" for name, rest in rows))
    make_yolo_lists(tmp_path / "yolo")
    write_text(tmp_path / "yolo/train.txt", *map(elsewhere, SIZES))
    for kind in ("coco", "csv", "yolo"):
        source = read(tmp_path / kind)
        scene(source)
        assert all("ends of their names" in problem.message for problem in source.problems)
        assert len(source.problems) == 1


def test_absolute_names_of_this_machine_are_no_others(tmp_path):
    make_yolo_lists(tmp_path / "yolo")
    write_text(tmp_path / "yolo/train.txt", *(f"{tmp_path}/yolo/obj/{stem}.jpg" for stem in SIZES))
    make_csv(tmp_path / "csv")
    write_text(tmp_path / "csv/train_labels.csv", ",".join(CSV), *csv_rows(prefix=f"{tmp_path}/csv/images/"))
    for kind in ("yolo", "csv"):
        source = read(tmp_path / kind)
        scene(source)
        assert source.problems == ()


def test_a_name_whose_folder_is_not_there_is_not_another_folders_image(tmp_path):
    """Where names fit as they are, cam2/one.jpg does not mean cam1/one.jpg."""
    for stem, size in SIZES.items():
        write_image(tmp_path / "images/cam1" / f"{stem}.jpg", size)
    content = coco_json()
    for image, name in zip(content["images"], ("cam1/one.jpg", "cam2/two.jpg"), strict=True):
        image["file_name"] = name
    write_json(tmp_path / "train.json", content)
    source = read(tmp_path)
    assert [Path(record.path).name for record in source.records] == ["one.jpg"]
    only(source.problems, "two.jpg", "image missing")


def test_the_image_of_another_split_is_none_of_this_one(tmp_path):
    make_coco(tmp_path)
    (tmp_path / "val2017/two.jpg").unlink()
    only(read(tmp_path, "val").problems, "two.jpg", "image missing")


def test_names_that_fit_two_images_are_told(tmp_path):
    make_coco_plain(tmp_path)
    for folder in ("a", "b"):
        write_image(tmp_path / "images" / folder / "two.jpg", SIZES["two"])
    (tmp_path / "images/two.jpg").unlink()
    only(read(tmp_path).problems, "two.jpg", "image missing", "may be")


@pytest.mark.parametrize(
    "absolute", ["/content/pets-1/{}/images", "/kaggle/working/{}/images", "D:\\pets\\{}\\images", "../pets/{}/images"]
)
def test_a_data_yaml_of_another_machine_means_the_folders_beside_it(absolute, tmp_path):
    make_yolo_roboflow(tmp_path)
    lines = [f"{key}: {absolute.format(split)}" for key, split in (("train", "train"), ("val", "valid"))]
    write_text(tmp_path / "data.yaml", *lines, "names: [cat, dog]")
    for split, folder in (("train", "train"), ("val", "valid")):
        for options in ({}, {"images": tmp_path}):
            source = read(tmp_path, split, **options)
            scene(source)
            assert all(Path(record.path).parts[-3] == folder for record in source.records)
    assert any("is not there" in problem.message and "taken" in problem.message for problem in read(tmp_path).problems)


def test_two_splits_are_never_the_same_images_by_the_ends_of_their_names(tmp_path):
    for stem, size in SIZES.items():
        write_image(tmp_path / "images" / f"{stem}.jpg", size)
        write_text(tmp_path / "labels" / f"{stem}.txt", *yolo_lines(stem))
    write_text(tmp_path / "data.yaml", "train: /x/train/images", "val: /x/valid/images", "names: [cat, dog]")
    assert len(read(tmp_path, "train").records) == 2
    with pytest.raises(DataError, match=r"val: '/x/valid/images' is not there; what fits it, .*images, is train's"):
        read(tmp_path, "val")
    make_yolo_roboflow(tmp_path / "other")
    with pytest.raises(DataError, match="is train's"):
        read(tmp_path / "other", "val", images=tmp_path / "other/train/images")


def test_the_folder_of_the_images_may_be_given(tmp_path):
    make_yolo_obj_data(tmp_path / "labels")
    (tmp_path / "labels/obj").rename(tmp_path / "obj")
    (tmp_path / "labels/texts").mkdir()
    for file in sorted((tmp_path / "obj").glob("*.txt")):
        file.rename(tmp_path / "labels/texts" / file.name)
    scene(read(tmp_path / "labels", images=tmp_path / "obj"))
    make_yolo_flat(tmp_path / "flat")
    (tmp_path / "flat/images").rename(tmp_path / "elsewhere")
    scene(read(tmp_path / "flat", "all", images=tmp_path / "elsewhere"))
