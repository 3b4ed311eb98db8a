"""Label tables in every form that people and tools write: columns, cells, paths, splits and groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tag2mask.common.errors import DataError
from tag2mask.data import Dataset, check_dataset, read_dataset
from tag2mask.data.readers.labels import LabelError, split_labels

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Write:
    """Return a function that writes files, and pictures under the names that are given."""

    def write(text: str = "", *images: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
        for number, image in enumerate(images):
            path = tmp_path / image
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (number, 50, 90)).save(path)
        if text:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding=encoding)
        return tmp_path

    return write


def labels(dataset: Dataset) -> dict[str, list[str]]:
    return {r.id: [dataset.classes[label] for label in r.labels] for r in dataset.records}


def problems(dataset: Dataset) -> list[str]:
    return [problem.kind for problem in dataset.problems if not problem.note]


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("golden retriever", ["golden retriever"]),
        ("golden retriever;cat", ["golden retriever", "cat"]),
        ("cat | dog ,horse", ["cat", "dog", "horse"]),
        ("['cat', 'traffic light']", ["cat", "traffic light"]),
        ('["cat","dog"]', ["cat", "dog"]),
        ("('cat',)", ["cat"]),
        ("{'dog', 'cat'}", ["cat", "dog"]),
        ("['cat' 'dog']", ["cat", "dog"]),  # as NumPy prints it
        ("['cat'\n 'dog']", ["cat", "dog"]),
        ("[cat, dog]", ["cat", "dog"]),
        ("{cat,dog}", ["cat", "dog"]),  # PostgreSQL
        ('{"choices": ["cat", "dog"]}', ["cat", "dog"]),
        ('[{"rectanglelabels": ["cat"], "x": 1.5}, {"rectanglelabels": ["dog"], "x": 2}]', ["cat", "dog"]),
        ('{"cat": 1, "dog": 0, "cow": true}', ["cat", "cow"]),
        ("[1, 2.0]", ["1", "2"]),
        ('"cat;dog"', ["cat", "dog"]),
        ("cat;nan", ["cat"]),
        ("cat\ndog", ["cat", "dog"]),
        ("it's a cat", ["it's a cat"]),
        ("(unripe) apple", ["(unripe) apple"]),
        *(
            (empty, [])
            for empty in (
                "",
                " ",
                "nan",
                "NaN",
                "None",
                "null",
                "NA",
                "N/A",
                "<NA>",
                "[]",
                "[None]",
                "[nan]",
                "{}",
                "-",
                "#N/A",
                '{"choices": []}',
                "['']",
                "null;",
                "[ ]",
            )
        ),
    ],
)
def test_cells(cell: str, names: list[str]) -> None:
    assert split_labels(cell) == names


@pytest.mark.parametrize("cell", ["{'box': [1, 2], 'w': 3}", "[" * 300 + "]" * 300, "[" + "'a'," * 9000 + "]"])
def test_cells_that_are_no_labels(folder: Write, cell: str) -> None:
    text = f'image,labels\na.png,cat\nb.png,"{cell}"\n'
    dataset = read_dataset(folder(text, "a.png", "b.png"))
    if cell.startswith("[[["):  # an empty list, however deep, or too deep to be read
        assert labels(dataset)["a"] == ["cat"]
        return
    with pytest.raises(LabelError):
        split_labels(cell)
    assert labels(dataset) == {"a": ["cat"]}
    assert problems(dataset) == ["bad-row"]


def test_code_in_a_cell_is_text(folder: Write) -> None:
    dataset = read_dataset(folder("image,labels\na.png,[__import__('os').getcwd()]\n", "a.png"))
    assert "__import__" in dataset.classes[0]


def test_a_space_splits_only_what_consists_of_known_names(folder: Write) -> None:
    root = folder("image,labels\na.png,cat dog\nb.png,cat\nc.png,dog\n", "a.png", "b.png", "c.png")
    dataset = read_dataset(root)
    assert dataset.classes == ("cat", "cat dog", "dog")
    assert problems(dataset) == ["several-words"]
    assert labels(read_dataset(root, classes=["cat", "dog"]))["a"] == ["cat", "dog"]
    assert labels(read_dataset(root, mask_classes=["cat", "dog"]))["a"] == ["cat", "dog"]
    (root / "classes.txt").write_text("dog\ncat\n")
    assert labels(read_dataset(root)) == {"a": ["dog", "cat"], "b": ["cat"], "c": ["dog"]}


def test_names_with_commas_in_the_class_file(folder: Write) -> None:
    root = folder('image,labels\na.png,"apple, rotten;pear"\nb.png,"apple, rotten"\n', "a.png", "b.png")
    (root / "classes.txt").write_text("pear\napple, rotten\n")
    assert labels(read_dataset(root)) == {"a": ["pear", "apple, rotten"], "b": ["apple, rotten"]}


@pytest.mark.parametrize("image", ["image", "filename", "File Name", "file", "path", "image_path", "IMG", "image-id"])
@pytest.mark.parametrize("label", ["labels", "Label", "class", "classes", "tags", "category", "class_name"])
def test_headers(folder: Write, image: str, label: str) -> None:
    root = folder(f"id,{label},{image},width\n7,cat;dog,a.png,640\n8,,b.png,480\n", "a.png", "b.png")
    assert labels(read_dataset(root)) == {"a": ["cat", "dog"], "b": []}


def test_columns_by_their_content(folder: Write) -> None:
    root = folder("picture of,label\na.png,cat\nb.png,dog\n", "a.png", "b.png")
    assert labels(read_dataset(root)) == {"a": ["cat"], "b": ["dog"]}
    headless = folder("a.png,cat\nb.png,dog\n", "a.png", "b.png")
    dataset = read_dataset(headless)
    assert labels(dataset) == {"a": ["cat"], "b": ["dog"]}
    assert [problem.kind for problem in dataset.problems] == ["header"]
    split = folder("a.png,cat,train\nb.png,dog,test\n", "a.png", "b.png")
    assert [record.split for record in read_dataset(split).records] == ["train", "test"]


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("TRUE", ""), ("x", ""), ("yes", "no")]
)
@pytest.mark.parametrize("separator", [",", ", ", ";", "\t"])
def test_one_hot(folder: Write, yes: str, no: str, separator: str) -> None:
    rows = (("filename", "cat", "dog"), ("a.png", yes, no), ("b.png", yes, yes), ("c.png", no, no))
    text = "\n".join(separator.join(row) for row in rows) + "\n"
    root = folder(text, "a.png", "b.png", "c.png", name="_classes.csv", encoding="utf-8-sig")
    dataset = read_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert labels(dataset) == {"a": ["cat"], "b": ["cat", "dog"], "c": []}
    assert dataset.class_source == "the columns of _classes.csv"


def test_one_hot_beside_other_columns(folder: Write) -> None:
    text = "image,cat,age,dog,split,patient,Unlabeled\na.png,1,63,0,train,p1,0\nb.png,0,41,1,val,p2,0\n"
    root = folder(text + "c.png,0,50,0,val,p2,1\n", "a.png", "b.png", "c.png")
    dataset = read_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert [(r.split, r.group) for r in dataset.records] == [("train", "p1"), ("val", "p2")]
    assert problems(dataset) == ["no-label"]  # nobody has looked at c.png
    assert "column(s) age hold more than yes and no" in str(dataset.problems[0])


def test_a_group_of_yes_and_no_is_a_group_but_in_a_table_of_classes_alone(folder: Write) -> None:
    text = "filename,patient,cat\na.png,0,1\nb.png,1,0\n"
    root = folder(text, "a.png", "b.png")
    assert [record.group for record in read_dataset(root).records] == ["0", "1"]
    (root / "labels.csv").unlink()
    assert read_dataset(folder(text, name="_classes.csv")).classes == ("patient", "cat")


@pytest.mark.parametrize("name", ["mask", "set"])
def test_a_class_that_is_called_like_another_column(folder: Write, name: str) -> None:
    root = folder(f"filename,{name},no-mask,notes\na.png,1,0,\nb.png,0,1,\nc.png,0,0,\n", "a.png", "b.png", "c.png")
    dataset = read_dataset(root)
    assert dataset.classes == (name, "no-mask")  # an empty column is no class
    assert labels(dataset) == {"a": [name], "b": ["no-mask"], "c": []}
    assert any(f"column(s) {name} hold yes and no" in str(problem) for problem in dataset.problems)
    assert any("column(s) notes are empty" in str(problem) for problem in dataset.problems)
    assert all(not record.split and not record.group for record in dataset.records)


@pytest.mark.parametrize("name", ["id", "is_train", "file"])
def test_a_second_name_of_the_image_is_no_class_whatever_it_holds(folder: Write, name: str) -> None:
    dataset = read_dataset(folder(f"image,{name},cat,dog\na.png,0,1,0\nb.png,1,0,1\n", "a.png", "b.png"))
    assert labels(dataset) == {"a": ["cat"], "b": ["dog"]}
    assert [str(problem) for problem in dataset.problems] == []


def test_uncertain_answers_are_not_taken_for_classes(folder: Write) -> None:
    with pytest.raises(DataError, match="no column 'labels', and 'edema' holds '-1' in line 3 beside yes and no"):
        read_dataset(folder("image,edema\na.png,1\nb.png,-1\n", "a.png", "b.png"), reader="csv")


@pytest.mark.parametrize("odd", ["-1.0", "0.5", "maybe"])
def test_a_column_with_an_odd_answer_is_named_with_its_row(folder: Write, odd: str) -> None:
    text = f"Path,Sex,Age,Edema,Pneumonia\na.png,F,30,1.0,\nb.png,M,60,,{odd}\nc.png,F,50,,1.0\n"
    dataset = read_dataset(folder(text, "a.png", "b.png", "c.png"))
    assert dataset.classes == ("Edema",)
    problem = next(problem for problem in dataset.problems if not problem.note)
    assert f"column 'Pneumonia' holds '{odd}' in line 3 beside yes and no" in problem.message
    assert "uncertain" in problem.remedy
    assert any("column(s) Sex, Age hold more than yes and no" in str(problem) for problem in dataset.problems)


def test_rows_are_joined(folder: Write) -> None:
    text = "image,label,xmin,split\na.png,cat,1,train\nb.png,dog,2,val\na.png,dog,3,train\na.png,cat,4,train\n"
    dataset = read_dataset(folder(text, "a.png", "b.png"))
    assert labels(dataset) == {"a": ["cat", "dog"], "b": ["dog"]}
    assert problems(dataset) == []
    dataset = read_dataset(folder("image,label\na.png,\na.png,cat\nb.png,dog\nb.png,dog\n", "a.png", "b.png"))
    assert labels(dataset) == {"a": ["cat"], "b": ["dog"]}
    assert problems(dataset) == ["contradiction"]


def test_labels_that_go_on_in_further_cells(folder: Write) -> None:
    assert labels(read_dataset(folder("image,labels\na.png,cat,dog\nb.png,['cat', 'cow']\n", "a.png", "b.png"))) == {
        "a": ["cat", "dog"],
        "b": ["cat", "cow"],
    }


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("C:\\Users\\me\\1.png", "1.png"),
        ("\\\\server\\share\\x\\1.png", "deep/1.png"),
        ("/home/other/pets/train/1.png", "train/1.png"),
        ("../images/1.png", "images/1.png"),
        ("/data/upload/3/0a1b2c3d-1.png", "1.png"),
        ("/data/upload/3/0a1b2c3d-1.png", "0a1b2c3d-1.png"),
        ("/data/local-files/?d=pets/cat%201.png", "cat 1.png"),
        ("https://example.com/bucket/cat%201.png?sig=x", "cat 1.png"),
        ("s3://bucket/pets/1.png", "1.png"),
        ("pets/1.png", "1.png"),
        ("file:///home/x/1.png", "1.png"),
        ("./1.png", "1.png"),
    ],
)
def test_paths_of_elsewhere(folder: Write, name: str, image: str) -> None:
    dataset = read_dataset(folder(f"image,labels\n{name},cat\n", image))
    assert dataset.records[0].path == dataset.records[0].path.parent / Path(image).name
    assert problems(dataset) == []


def test_paths_are_never_guessed(folder: Write, tmp_path: Path) -> None:
    text = (
        "image,labels\n/x/1.png,cat\n/y/2.png,cat\n/z/2.png,dog\n/x/b/3.png,cat\nmasks/4.png,cat\n/etc/passwd,cat\n"
    )
    root = folder(text, "a/1.png", "b/1.png", "2.png", "a/3.png", "b/3.png", "masks/9.png")
    dataset = read_dataset(root)
    assert labels(dataset) == {"3": ["cat"]}
    assert dataset.records[0].path == root / "b" / "3.png"
    kinds = problems(dataset)
    assert kinds.count("ambiguous-image") == 3
    assert kinds.count("unsafe-path") == 1
    assert all(record.path.is_relative_to(root) for record in dataset.records)


def test_a_listed_image_is_not_found_by_another_name(folder: Write) -> None:
    dataset = read_dataset(folder("image,labels\nx/1.png,cat\ny/1.png,dog\n", "y/1.png"))
    assert labels(dataset) == {"1": ["dog"]}
    assert problems(dataset) == ["missing-image"]


def test_splits_as_folders_keep_their_images(folder: Write) -> None:
    folder(
        "image,labels\n1.png,cat\n2.png,dog\n", "train/1.png", "valid/1.png", "valid/2.png", name="train/labels.csv"
    )
    dataset = read_dataset(folder("image,labels\n1.png,cat\n2.png,dog\n", name="valid/labels.csv"))
    assert [(r.id, r.split) for r in dataset.records] == [
        ("train__1.png", "train"),
        ("valid__1.png", "val"),
        ("2", "val"),
    ]
    assert problems(dataset) == ["missing-image"]  # train/2.png is not taken from valid


def test_tables_of_other_names(folder: Write) -> None:
    folder("file,tag\n1.png,cat\n", "1.png", "2.png", name="train.csv")
    dataset = read_dataset(folder("file,tag\n2.png,cat\n", name="val.csv"))
    assert [record.split for record in dataset.records] == ["train", "val"]
    (dataset.records[0].path.parent / "val.csv").unlink()
    (dataset.records[0].path.parent / "train.csv").rename(dataset.records[0].path.parent / "my photos.csv")
    dataset = read_dataset(dataset.records[0].path.parent)
    assert [record.split for record in dataset.records] == [""]
    assert [problem.kind for problem in dataset.problems] == ["unlisted"]


def test_tables_by_tabs_are_found_by_themselves(folder: Write) -> None:
    dataset = read_dataset(folder("image\tlabels\n1.png\tcat;dog\n", "images/1.png", name="labels.tsv"))
    assert labels(dataset) == {"1": ["cat", "dog"]}
    root = folder("image,labels\n1.png,cow\n", name="other.csv")
    with pytest.raises(DataError, match="may hold the labels"):  # which of the two isn't guessed
        read_dataset(root)


def test_negative_words_and_names(folder: Write) -> None:
    text = "image,labels\na.png,cat\nb.png,background\nc.png,Negative\nd.png,No Finding\ne.png,cat;normal\n"
    root = folder(text, *(f"{name}.png" for name in "abcde"))
    dataset = read_dataset(root)
    assert dataset.classes == ("No Finding", "cat", "normal")
    dataset = read_dataset(root, negatives=["no finding", "Normal"])
    assert dataset.classes == ("cat",)
    assert labels(dataset) == {"a": ["cat"], "b": [], "c": [], "d": [], "e": ["cat"]}
    without = read_dataset(root, negatives=False)
    assert set(labels(without)) == {"a", "d", "e"}
    assert problems(without) == ["no-label", "no-label"]
    (root / "classes.txt").write_text("negative\nNegative\ncat\nNo Finding\nnormal\n")
    assert labels(read_dataset(root))["c"] == ["Negative"]  # it is a class where the class file says so


def test_labels_as_numbers(folder: Write) -> None:
    root = folder('image,labels\na.png,0\nb.png,1\nc.png,"0,1"\n', "a.png", "b.png", "c.png")
    assert read_dataset(root).classes == ("0", "1")
    (root / "classes.txt").write_text("dog\ncat\n")
    assert labels(read_dataset(root)) == {"a": ["dog"], "b": ["cat"], "c": ["dog", "cat"]}
    (root / "labels.csv").write_text("image,labels\na.png,1\nb.png,1\n")
    with pytest.raises(DataError, match="numbers may begin at 0 or at 1"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("name", "text", "numbers", "names"),
    [
        ("classes.txt", "background\ncat\ndog\n", "011", [[], ["cat"], ["cat"]]),
        ("classes.txt", "background\ncat\ndog\n", "012", [[], ["cat"], ["dog"]]),
        ("classes.txt", "background\ncat\ndog\n", "112", [["cat"], ["cat"], ["dog"]]),
        ("classes.txt", "cat\ndog\n", "112", [["cat"], ["cat"], ["dog"]]),
        ("classes.txt", "0 cat\n1 dog\n2 fox\n", "122", [["dog"], ["fox"], ["fox"]]),
        ("classes.txt", "1 cat\n2 dog\n3 fox\n", "122", [["cat"], ["dog"], ["dog"]]),
        ("classes.csv", "value,name\n3,dog\n1,cat\n2,fox\n", "132", [["cat"], ["dog"], ["fox"]]),
        ("data.yaml", "names: [background, cat]\n", "011", [[], ["cat"], ["cat"]]),
        ("data.yaml", "names: {1: dog, 3: cat}\n", "133", [["dog"], ["cat"], ["cat"]]),
        ("classes.txt", "1 cat\n2 dog\n3 fox\n", "012", "classes.txt has no number 0"),
        ("classes.txt", "0 cat\n1 dog\n2 fox\n", "123", "classes.txt has no number 3"),
        ("classes.txt", "cat\ndog\nfox\n", "122", "numbers may begin at 0 or at 1"),
        ("classes.txt", "background\ncat\ndog\n", "123", "numbers may begin at 0 or at 1"),
    ],
)
def test_labels_as_the_class_file_numbers_them(
    folder: Write, name: str, text: str, numbers: str, names: list[list[str]] | str
) -> None:
    rows = "".join(f"{at}.png,{number}\n" for at, number in enumerate(numbers))
    root = folder(f"image,labels\n{rows}", "0.png", "1.png", "2.png")
    (root / name).write_text(text)
    if isinstance(names, str):
        with pytest.raises(DataError, match=names):
            read_dataset(root)
    else:
        assert list(labels(read_dataset(root)).values()) == names


@pytest.mark.parametrize("cells", [("[1, 0]", "[0, 1]", "[0, 0]"), ("1 0", "0 1", "0 0"), ("1;0", "0;1", "")])
def test_a_0_or_1_for_each_class(folder: Write, cells: tuple[str, ...]) -> None:
    rows = "".join(f'{at}.png,"{cell}"\n' for at, cell in enumerate(cells))
    root = folder(f"image,labels\n{rows}", "0.png", "1.png", "2.png")
    with pytest.raises(DataError, match=r"a 0 or 1 for each of 2 classes, such as '1 0'"):
        read_dataset(root)
    (root / "classes.txt").write_text("cat\ndog\nfox\n")
    with pytest.raises(DataError, match=r"classes\.txt has 3 classes"):
        read_dataset(root)
    (root / "classes.txt").write_text("dog\ncat\n")
    assert labels(read_dataset(root)) == {"0": ["dog"], "1": ["cat"], "2": []}


def test_lists_of_numbers_are_no_vectors(folder: Write) -> None:
    root = folder('image,labels\na.png,"[0, 1]"\nb.png,[1]\nc.png,[]\n', "a.png", "b.png", "c.png")
    (root / "classes.txt").write_text("dog\ncat\n")
    assert labels(read_dataset(root)) == {"a": ["dog", "cat"], "b": ["cat"], "c": []}
    (root / "labels.csv").write_text('image,labels\na.png,"[0, 1]"\nb.png,"[0, 1]"\n')
    with pytest.raises(DataError, match="look like a 0 or 1 for each of 2 classes"):  # dog and cat, or cat
        read_dataset(root)


def test_classes_that_the_class_file_has_not_are_counted_and_named(folder: Write) -> None:
    root = folder("", "cat/a.png", "dog/b.png", "dog/c.png")
    (root / "classes.txt").write_text("Cats\ndog\n")
    assert labels(read_dataset(root)) == {"dog__b": ["dog"], "dog__c": ["dog"]}
    (problem,) = read_dataset(root).problems
    assert problem.message == "class 'cat' of 1 image(s) is not in classes.txt; did you mean 'Cats'?"
    assert not problem.note
    (root / "classes.txt").write_text("Dog\nCat\n")
    with pytest.raises(DataError, match=r"class 'dog' of 2 image\(s\) is not in classes.txt; did you mean 'Dog'"):
        read_dataset(root)
    (problem,) = read_dataset(root, classes=["dog"]).problems  # as it was asked for
    assert problem.note
    assert "class 'cat' of 1 image(s) is not in the recipe's data.classes" in problem.message
    (root / "labels.csv").write_text("image,cat,dog,fox\ncat/a.png,1,0,0\ndog/b.png,0,1,0\ndog/c.png,0,0,1\n")
    (root / "classes.txt").write_text("dog\ncat\n")
    assert problems(read_dataset(root)) == ["unlisted-class"]


@pytest.mark.parametrize("mark", [".", ")", ":", ""])
def test_numbered_class_files(folder: Write, mark: str) -> None:
    root = folder("", "cat/a.png", "dog/b.png")
    (root / "classes.txt").write_text(f"1{mark} dog\n2{mark} cat\n")
    assert read_dataset(root).classes == ("dog", "cat")


@pytest.mark.parametrize("rows", ['b.png,"dog\nc.png,cat\n', 'b.png,"dog\nc.png,"cat"\n'])
@pytest.mark.parametrize("before", ["", "sep=,\n"])
def test_a_quote_that_is_not_closed_swallows_no_rows(folder: Write, rows: str, before: str) -> None:
    root = folder(f"{before}image,labels\na.png,cat\n{rows}", "a.png", "b.png", "c.png")
    with pytest.raises(DataError, match=f"line {4 if before else 3}: a quote opens here and isn't closed"):
        read_dataset(root)


def test_cells_of_several_lines(folder: Write) -> None:
    root = folder('image,labels\na.png,"cat\ndog"\nb.png,"the ""big"" cat"\n', "a.png", "b.png")
    assert labels(read_dataset(root)) == {"a": ["cat", "dog"], "b": ['the "big" cat']}


@pytest.mark.parametrize("header", ["label,label2", "labels,labels", "label_1,label_2", "Label 1,Label 2"])
def test_several_columns_of_labels(folder: Write, header: str) -> None:
    dataset = read_dataset(folder(f"image,{header}\na.png,cat,dog\nb.png,dog,\n", "a.png", "b.png"))
    assert labels(dataset) == {"a": ["cat", "dog"], "b": ["dog"]}
    assert problems(dataset) == []


@pytest.mark.parametrize(
    ("header", "rows", "named"),
    [
        ("target,cat,dog", ("0,1,0", "1,0,1"), "cat, dog"),
        ("healthy,rust,category", ("1,0,leaf", "0,1,leaf"), "healthy, rust"),
        ("label,class", ("0,cat", "1,dog"), "class"),
        ("label,truncated,is_crowd,width", ("cat,1,0,4", "dog,0,0,5"), ""),
    ],
)
def test_columns_that_may_hold_labels_too_are_named(
    folder: Write, header: str, rows: tuple[str, str], named: str
) -> None:
    dataset = read_dataset(folder(f"image,{header}\na.png,{rows[0]}\nb.png,{rows[1]}\n", "a.png", "b.png"))
    found = [problem.message for problem in dataset.problems if not problem.note]
    assert found == ([f"column(s) {named} may hold labels too, and aren't read"] if named else [])


@pytest.mark.parametrize("header", ["image,label,value", "ImageID,LabelName,Confidence", "image,label,Confidence"])
def test_rows_that_say_what_an_image_does_not_show(folder: Write, header: str) -> None:
    rows = ("a.png,cat,1", "a.png,dog,0", "b.png,dog,1", "c.png,cat,0", "c.png,dog,0", "d.png,cat,0")
    root = folder(header + "\n" + "\n".join(rows) + "\n", "a.png", "b.png", "c.png", "d.png")
    dataset = read_dataset(root)
    assert labels(dataset) == {"a": ["cat"], "b": ["dog"], "c": []}  # d.png may be a dog
    assert problems(dataset) == []
    assert any("4 row(s) say by 0 or no" in str(p) for p in dataset.problems)
    assert any("1 picture(s) have no usable row, such as 'd.png'" in str(p) for p in dataset.problems)


def test_detections_without_a_header(folder: Write) -> None:
    root = folder("a.png,1,1,9,9,cat\nb.png,1,1,9,9.5,dog\nc.png,,,,,\n", "a.png", "b.png", "c.png")
    assert labels(read_dataset(root, reader="csv")) == {"a": ["cat"], "b": ["dog"], "c": []}
    (root / "labels.csv").write_text("a.png,cat,0.9\nb.png,dog,1\n")
    with pytest.raises(DataError, match="column 3 holds numbers where column 2 holds words; write a header"):
        read_dataset(root)


def test_the_separator_of_a_table_without_a_header(folder: Write) -> None:
    root = folder("a.png;cat,dog\nb.png;dog\nc.png;\n", "a.png", "b.png", "c.png")
    assert labels(read_dataset(root)) == {"a": ["cat", "dog"], "b": ["dog"], "c": []}


@pytest.mark.parametrize("name", ["cat/1.png", "/home/x/fox/1.png", "20230101-1.png"])
def test_a_missing_image_is_no_other_folders_or_dates(folder: Write, name: str) -> None:
    own = "dog/1.png" if "/" in name else "1.png"
    dataset = read_dataset(folder(f"image,labels\n{name},cat\ndog/2.png,dog\n", own, "dog/2.png", "fox/3.png"))
    assert labels(dataset) == {"2": ["dog"]}
    assert problems(dataset) == ["unsafe-path" if name.startswith("/") else "missing-image"]


@pytest.mark.parametrize("label", ["cat/dog", "cat & dog", "dog + cat", "16 0"])
def test_labels_that_consist_of_others_are_named(folder: Write, label: str) -> None:
    text = f"image,labels\na.png,cat\nb.png,dog\nc.png,{label}\nd.png,cat / can\n"
    dataset = read_dataset(folder(text, "a.png", "b.png", "c.png", "d.png"))
    (problem,) = dataset.problems
    assert problem.message == f"label '{label}' consists of other labels; only ; | and , separate labels"


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("golden_retriever", "golden retriever")])
def test_spellings_of_one_class_are_named_however_common(folder: Write, one: str, other: str) -> None:
    names = [f"{at}.png" for at in range(8)]
    rows = "".join(f"{name},{(one, other)[at % 2]}\n" for at, name in enumerate(names))
    report = check_dataset(read_dataset(folder(f"image,labels\n{rows}", *names)), decode=False)
    assert [problem.kind for problem in report.found] == ["suspect-class"]


def test_copies_are_named_with_their_folders(folder: Write) -> None:
    root = folder("image,labels\ncat/1.png,cat\ndog/1.png,dog\n", "cat/1.png", "dog/1.png")
    (root / "dog" / "1.png").write_bytes((root / "cat" / "1.png").read_bytes())
    (problem,) = (p for p in check_dataset(read_dataset(root), decode=False).found if p.kind == "duplicate")
    assert str(problem).startswith("dog/1.png: has the same content as 'cat/1.png'")


def test_a_table_without_rows(folder: Write) -> None:
    with pytest.raises(DataError, match="has a header and no row; write a row for each image"):
        read_dataset(folder("image,labels\n", "a.png"))


def test_the_check_shows_what_was_read(folder: Write) -> None:
    root = folder("image,labels\nx/a.png,dog\ny/b.png,cat;dog\nc.png,\n", "x/a.png", "y/b.png", "c.png")
    report = check_dataset(read_dataset(root), decode=False)
    assert report.examples == ("y/b.png -> cat; dog", "x/a.png -> dog", "c.png -> (none)")
    assert "  x/a.png -> dog" in report.summary()


def test_classes_are_counted_as_people_do(folder: Write) -> None:
    names = ("class 10", "class 2", "class 1", "Zebra", "ant")
    text = "image,labels\n" + "".join(f"{i}.png,{name}\n" for i, name in enumerate(names))
    dataset = read_dataset(folder(text, *(f"{i}.png" for i in range(5))))
    assert dataset.classes == ("Zebra", "ant", "class 1", "class 2", "class 10")


TOOL = "annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at\n"


def test_exports_of_label_studio_as_csv(folder: Write) -> None:
    rows = [
        "1,1,cat,x,1,/data/upload/1/0a1b2c3d-a.png,2.5,x",
        '2,1,"{""choices"":[""cat"",""dog""]}",x,2,b.png,1,x',
        "3,1,,x,3,c.png,1,x",
        "4,2,dog,x,1,/data/upload/1/0a1b2c3d-a.png,9,x",
    ]
    dataset = read_dataset(folder(TOOL + "\n".join(rows) + "\n", "a.png", "b.png", "c.png"))
    assert labels(dataset) == {"a": ["dog"], "b": ["cat", "dog"], "c": []}
    assert problems(dataset) == ["contradiction"]  # two people, two answers: the last counts
    named = TOOL.replace("choice", "kind of pet").replace("image", "photo url")
    dataset = read_dataset(folder(named + "\n".join(rows[:3]) + "\n"))
    assert labels(dataset) == {"a": ["cat"], "b": ["cat", "dog"], "c": []}


def test_the_last_answer_counts_in_short_exports_of_label_studio(folder: Write) -> None:
    root = folder("", "a.png", "b.png")
    answers = [("a", "cat"), ("b", "dog"), ("a", "dog"), ("b", "dog")]
    tasks = [{"image": f"/x/{name}.png", "choice": tag, "annotation_id": 1, "lead_time": 1} for name, tag in answers]
    (root / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    dataset = read_dataset(root)
    assert labels(dataset) == {"a": ["dog"], "b": ["dog"]}
    assert [problem.kind for problem in dataset.problems if not problem.note] == ["contradiction"]


def test_short_exports_of_label_studio_as_json(folder: Write) -> None:
    root = folder("", "a.png", "b.png", "c.png")

    def written(key: str, **more: object) -> Path:
        rows = [("a", "cat"), ("b", {"choices": ["cat", "dog"]}), ("c", None)]
        tasks = [
            {
                "image": f"/data/upload/1/{n}.png",
                key: value,
                "id": 7,
                "annotator": 1,
                "annotation_id": 3,
                "lead_time": 9.5,
            }
            for n, value in rows
        ]
        (root / "export.json").write_text(json.dumps([task | more for task in tasks]), encoding="utf-8")
        return root

    for key in ("choice", "animal"):  # whatever the control is called; a task without answer lacks the key
        tasks = json.loads(written(key).joinpath("export.json").read_text("utf-8"))
        more = {} if key == "animal" else {"source": "cam one", "comment": "nothing there"}
        answered = [{k: v for k, v in task.items() if v is not None} | more for task in tasks]
        (root / "export.json").write_text(json.dumps(answered), encoding="utf-8")
        assert labels(read_dataset(root)) == {"a": ["cat"], "b": ["cat", "dog"], "c": []}
        assert labels(read_dataset(written(key))) == {"a": ["cat"], "b": ["cat", "dog"], "c": []}
    dataset_problems = read_dataset(written("choice", rating=4)).problems
    assert not any("4" in str(problem) for problem in dataset_problems)
    with pytest.raises(DataError, match="has the keys animal, mood, of which one holds tags; call that one 'label'"):
        read_dataset(written("animal", mood="calm"))


def test_groups_of_copies(folder: Write) -> None:
    names = ("a_jpg.rf.1f0e.jpg", "a_jpg.rf.2b3c.jpg", "b_png.rf.77.jpg", "c.jpg")
    text = "image,labels\n" + "".join(f"{name},cat\n" for name in names)
    assert [record.group for record in read_dataset(folder(text, *names)).records] == ["a_jpg", "a_jpg", "b_png", ""]


def test_json_of_choices(folder: Write) -> None:
    root = folder("", "a.png", "b.png", "c.png", "d.png")

    def task(image: str, *answers: dict) -> dict:
        return {"data": {"pic": f"/data/upload/1/0a1b2c3d-{image}", "note": "x"}, "annotations": list(answers)}

    def answer(*names: str, cancelled: bool = False) -> dict:
        value = {"choices": list(names)}
        result = [{"type": "choices", "from_name": "c", "to_name": "pic", "value": value}] if names else []
        return {"was_cancelled": cancelled, "result": result}

    more = [{"type": "rating", "value": {"rating": 4}}, {"type": "number", "value": {"number": 12}}]
    box = {"result": [*more, {"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["dog"]}}]}
    tasks = [
        task("a.png", answer("cat"), answer("cat", "dog"), answer("cow", cancelled=True)),
        task("b.png", answer()),
        task("c.png"),
        task("d.png", box),
    ]
    (root / "export.json").write_text(json.dumps(tasks))
    dataset = read_dataset(root)
    assert labels(dataset) == {"a": ["cat", "dog"], "b": [], "d": ["dog"]}
    assert problems(dataset) == ["no-label"]
    short = [
        {"image": "a.png", "choice": "cat", "annotation_id": 1},
        {"image": "b.png", "annotation_id": 2},
        {"image": "d.png", "choice": {"choices": ["cat", "dog"]}, "annotation_id": 3},
    ]
    (root / "export.json").write_text(json.dumps(short))
    assert labels(read_dataset(root)) == {"a": ["cat"], "b": [], "d": ["cat", "dog"]}


def test_what_spreadsheets_and_libraries_add(folder: Write) -> None:
    root = folder("sep=;\nimage;labels\na.png;cat\nb.png;\ngone.png;cat\n", "a.png", "b.png")
    dataset = read_dataset(root)
    assert labels(dataset) == {"a": ["cat"], "b": []}
    assert [problem.place for problem in dataset.problems] == ["line 5"]
    root = folder(",image,labels,is_valid\n0,a.png,cat,False\n1,b.png,dog,True\n")  # pandas' index, fastai's split
    assert [record.split for record in read_dataset(root).records] == ["train", "val"]
    root = folder("image,cat,dog,is_valid\na.png,1,0,0\nb.png,0,1,1\n")
    dataset = read_dataset(root)
    assert (dataset.classes, [record.split for record in dataset.records]) == (("cat", "dog"), ["train", "val"])


def test_counts_are_not_silently_negatives(folder: Write) -> None:
    dataset = read_dataset(folder("image,cat,dog\na.png,2,0\nb.png,0,1\n", "a.png", "b.png"))
    assert problems(dataset) == ["counts"]
    assert "column(s) cat hold 0 and larger numbers" in str(next(p for p in dataset.problems if not p.note))


def test_suffixes_in_another_case(folder: Write) -> None:
    dataset = read_dataset(folder("image,labels\na.jpg,cat\nB.jpg,dog\n", "a.JPG", "b.jpg"))
    assert labels(dataset) == {"a": ["cat"], "b": ["dog"]}
    assert [problem.kind for problem in dataset.problems] == ["path"]


@pytest.mark.parametrize("mark", [";", "\t", "|", " ", ","])
def test_a_line_that_says_what_separates(folder: Write, mark: str) -> None:
    root = folder(f"sep={mark}\nimage{mark}labels\na.png{mark}cat\n", "a.png")
    assert labels(read_dataset(root)) == {"a": ["cat"]}


@pytest.mark.parametrize("mark", ['"', "\r"])
def test_what_can_separate_nothing_is_no_such_line(folder: Write, mark: str) -> None:
    root = folder(f"sep={mark}\nimage,labels\na.png,cat\n", "a.png")
    with pytest.raises(DataError, match=r"labels\.csv"):
        read_dataset(root)


@pytest.mark.parametrize("start", ["", "\n\n", " ;\n", "\ufeff", "\ufeff\n"])
def test_what_is_before_the_header(folder: Write, start: str) -> None:
    root = folder(f"{start}image;labels\na.png;cat\n\nb.png;dog\n", "a.png", "b.png")
    assert labels(read_dataset(root)) == {"a": ["cat"], "b": ["dog"]}


def test_a_byte_that_is_no_text_far_down_is_named_with_its_line(folder: Write) -> None:
    root = folder("image,labels\n" + "a.png,cat\n" * 40_000, "a.png")
    with (root / "labels.csv").open("ab") as stream:
        stream.write(b"a.png,caf\xe9\n")
    with pytest.raises(DataError, match=r"line 40002: byte b'\\xe9' is not UTF-8"):
        read_dataset(root)


def test_columns_of_pictures_the_first_of_equals(folder: Write) -> None:
    rows = "a.png,b.png,cat\nb.png,a.png,dog\n"
    root = folder("one,two,labels\n" + rows, "a.png", "b.png")
    assert labels(read_dataset(root)) == {"a": ["cat"], "b": ["dog"]}
