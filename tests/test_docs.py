"""README.md and docs/: links, the list of configs, and the numbers of files and lines in the reading order."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def without_code(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(repository, page):
    path = repository / page
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text())):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(repository, page):
    text = without_code((repository / page).read_text())
    for name in re.findall(r"\b(?:tests|nnet|models|sample|db|benchmarks)/[\w/]+\.py\b", text):
        assert (repository / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_named_that_a_clone_lacks(repository, page):
    """Folders beside the repository are those of one machine."""
    assert not re.search(r"\.\./shared|/work/", (repository / page).read_text())


def test_every_config_is_listed(repository, shipped):
    listed = re.findall(r"^\| \[(\w+\.yaml)\]", (repository / "docs" / "configs.md").read_text(), re.MULTILINE)
    own = [path for path in shipped if re.fullmatch(r"configs/\w+\.yaml", path)]
    assert sorted(listed) == sorted(path.removeprefix("configs/") for path in own)


def test_the_readme_is_short(repository):
    assert len((repository / "README.md").read_text().splitlines()) <= 120


def test_the_reading_order_is_as_long_as_stated(repository):
    text = (repository / "README.md").read_text()
    lists = re.findall(r"(\d+) files, ([\d,]+) lines\.\n\n((?:(?:\d+\.| ) .*\n)+)", text)
    assert len(lists) == 2  # training and testing
    for files, lines, entries in lists:
        paths = re.findall(r"^\d+\. \[([^\]]+)\]", entries, re.MULTILINE)
        assert len(paths) == int(files) <= 10
        total = sum(len((repository / path).read_text().splitlines()) for path in paths)
        assert total <= 1800
        assert abs(total - int(lines.replace(",", ""))) <= 50
