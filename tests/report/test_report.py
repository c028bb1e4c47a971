"""The HTML page of a comparison: its content, and how a browser shows it."""

from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
import json
import re
import shutil
import subprocess
import sys

import numpy as np
from numpy.testing import assert_allclose
from plotly.offline import get_plotlyjs
import pytest

from dipy_rnn import report
from dipy_rnn.evaluation import Estimate
from dipy_rnn.evaluation.definitions import Metric
from dipy_rnn.report import page as page_module
from dipy_rnn.report import plots

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
ALONG_X = np.stack([np.linspace(2, 18, 17), np.full(17, 9.0), np.full(17, 7.0)], 1)
BESIDE = ALONG_X + [0, 1.5, 0]
BENT = np.where(np.arange(17)[:, None] < 9, ALONG_X, ALONG_X[[8]] + [0, 5, 0])
IMAGE, AFFINE = np.linspace(0.1, 1, 20 * 18 * 14).reshape(20, 18, 14), np.eye(4)


def metrics():
    """Return the metrics of a comparison, with all optional parts."""
    return {
        "title": "Head <b>7</b>",
        "date": "2031-02-03",
        "command": "dipy_compare_rnn 'a <b>.pam5' fa.nii.gz",
        "versions": {"dipy_rnn": "0.1.0", "numpy": "2.4.6"},
        "machine": {"processor": "a fast one", "cores": 16, "threads": 3},
        "inputs": {"fODF": "a <b>.pam5", "stopping image": "fa.nii.gz"},
        "options": {"step_size": 0.25, "max_angle": 30.0, "random_seed": None},
        "model": {"name": "default", "parameters": 49100, "sha256": "0f" * 32},
        "trackers": {
            "candidate": {
                "label": "the <new> one",
                "n_streamlines": 4987,
                "n_seeds": 5000,
                "n_points": 400123,
                "seconds": 1.25,
                "steps_per_second": 330456.7,
            },
            "reference": {
                "label": "deterministic",
                "n_streamlines": 4988,
                "n_seeds": 5000,
                "n_points": 400456,
                "seconds": 8.0,
                "steps_per_second": 51234.0,
            },
            "yardstick": {"label": "on another sphere", "n_streamlines": 4989},
        },
        "between": [
            Metric(
                "alike",
                "Alike within 2 mm",
                "%",
                "higher",
                "Share of seeds whose streamlines are alike.",
                "alike()",
                {
                    "candidate": Estimate(0.4612, 0.007),
                    "yardstick": Estimate(0.7123, 0.006),
                },
            ),
            Metric(
                "bias",
                "Longer by",
                "mm",
                "",
                "Difference of lengths.",
                "Student, 1908",
                {
                    "candidate": Estimate(-1.234, 0.35),
                    "yardstick": Estimate(np.nan),
                },
            ),
            Metric(
                "angle",
                "Angle",
                "deg",
                "lower",
                "Of first steps.",
                "",
                {
                    "candidate": Estimate(3.14159),
                },
            ),
        ],
        "each": [
            Metric(
                "curvature",
                "Mean curvature",
                "",
                "",
                "One over a radius.",
                "Frenet",
                {
                    "candidate": Estimate(0.01234, 0.0004),
                    "reference": Estimate(0.01111, 0.0003),
                    "yardstick": Estimate(np.nan),
                },
            ),
        ],
        "bundles": [
            {
                "name": "CST",
                "label": "Corticospinal tract",
                "candidate": {
                    "n_valid": 12,
                    "overlap": 0.8123,
                    "overreach": 0.0987,
                    "f1": 0.765,
                    "shape_similarity": 0.543,
                },
                "reference": {"n_valid": 13, "overlap": 0.5, "overreach": None},
            }
        ],
    }


def tracked():
    nothing = ALONG_X[:0]
    return {
        "candidate": [ALONG_X, BENT, nothing],
        "reference": [BESIDE, BESIDE, BESIDE],
        "yardstick": [BESIDE, ALONG_X, BESIDE],
    }


DISTANCES = {
    "candidate": np.array([1.5, 3.5, np.inf]),
    "yardstick": np.array([0, 1.5, 0]),
}


def only_required(full):
    """Keep the required parts, as in a comparison of two existing tractograms."""
    needed = {key: full[key] for key in ("title", "trackers", "between", "each")}
    for key, facts in needed["trackers"].items():
        needed["trackers"][key] = {
            name: facts[name] for name in ("label", "n_streamlines")
        }
    del needed["trackers"]["yardstick"]
    for row in needed["between"]:
        row.estimates.pop("yardstick", None)
    return needed


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write_report(path, metrics(), tracked(), IMAGE, AFFINE, DISTANCES)
    return path


@pytest.fixture(scope="module")
def short_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    some = {key: tracked()[key] for key in ("candidate", "reference")}
    candidate = {"candidate": DISTANCES["candidate"]}
    report.write_report(path, only_required(metrics()), some, IMAGE, AFFINE, candidate)
    return path


@pytest.fixture
def coarse(monkeypatch):
    """Draw small plots, which takes less time."""
    monkeypatch.setattr(plots, "DPI", 40)


class Reader(HTMLParser):
    """Collect the text of a page, the rows of its tables, and links that it loads."""

    def __init__(self):
        super().__init__()
        self.words, self.rows, self.asked, self._inside = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self._inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.asked += [
            value for name, value in attributes if name in ("src", "href", "srcset")
        ]
        if tag in ("meta", "link", "img"):
            self._inside.pop()

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._inside):
            self.words.append(data)
            if {"td", "th"} & set(self._inside):
                self.rows[-1][-1] += " " * ("small" in self._inside) + data


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.text = re.sub(r"\s+", " ", " ".join(reader.words))
    reader.rows = {
        row[0].strip(): [re.sub(r"\s+", " ", cell).strip() for cell in row[1:]]
        for row in reader.rows
    }
    return reader


def test_tables_show_values_intervals_and_definitions(page):
    rows = read(page).rows
    assert rows["Alike within 2 mm"] == [
        "46.1 % 44.7 to 47.5",
        "71.2 % 70.1 to 72.4",
        "Share of seeds whose streamlines are alike. Higher is better. alike()",
    ]
    assert rows["Longer by"] == [
        f"{MINUS}1.2 mm {MINUS}1.9 to {MINUS}0.5",
        DASH,
        "Difference of lengths. Student, 1908",
    ]
    assert rows["Angle"] == ["3.14°", DASH, "Of first steps. Lower is better."]
    assert rows["Mean curvature"] == [
        "0.0123 0.0116 to 0.0131",
        "0.0111 0.0105 to 0.0117",
        DASH,
        "One over a radius. Frenet",
    ]


def test_tables_show_counts_and_times(page):
    rows = read(page).rows
    assert rows["Seeds"][:3] == ["5,000", "5,000", DASH]
    assert rows["Streamlines"][:3] == ["4,987", "4,988", "4,989"]
    assert rows["Points"][:3] == ["400,123", "400,456", DASH]
    assert rows["Time"][:3] == ["1.25 s", "8.00 s", DASH]
    assert rows["Steps per second"][:3] == ["330,457", "51,234", DASH]


def test_tables_show_known_bundles_tracker_by_tracker(page):
    rows = read(page).rows
    assert rows["Corticospinal tract"] == [
        *("the <new> one", "12", "81.2 %", "9.87 %", "0.765", "0.543"),
    ]
    assert rows["deterministic"] == ["13", "50.0 %", DASH, DASH, DASH]


def test_the_cards_show_agreement_speed_and_largest_difference(page):
    text = read(page).text
    assert (
        "46 of 100 streamlines of the <new> one agree with their partners in det"
        in text
    )
    assert "self-agreement baseline (on another sphere), it is 71 of 100." in text
    assert "6.4 times as fast as deterministic" in text  # 8 s over 1.25 s
    assert "Time for 5,000 seeds" in text
    assert re.search(
        r"At the cross \(R \d+, A \d+, S \d+ mm\), the streamline density of", text
    )


@pytest.mark.parametrize("known", [None, Estimate(np.nan)])
def test_without_a_value_the_card_on_agreement_is_left_out(tmp_path, coarse, known):
    content = metrics()
    content["between"][0].estimates["candidate"] = known
    if known is None:
        del content["between"][0].estimates["candidate"]
    path = tmp_path / "report.html"
    report.write_report(path, content, tracked(), IMAGE, AFFINE, DISTANCES)
    reader = read(path)
    assert reader.text.count("Agreement") == 1  # the heading of the table
    assert reader.rows["Alike within 2 mm"][:2] == [DASH, "71.2 % 70.1 to 72.4"]


def test_only_the_agreement_within_2_mm_is_given_per_100_streamlines(tmp_path, coarse):
    content = metrics()
    content["between"][0] = replace(
        content["between"][0], name="overlap", label="Common voxels"
    )
    path = tmp_path / "report.html"
    report.write_report(path, content, tracked(), IMAGE, AFFINE, DISTANCES)
    text = read(path).text
    assert "Agreement 46.1 % Common voxels" in text
    assert "agree with" not in text and "71 of 100" not in text


def test_without_seconds_the_speed_is_in_steps_per_second(tmp_path, coarse):
    content = metrics()
    del content["trackers"]["reference"]["seconds"]
    content["trackers"]["reference"]["steps_per_second"] = 2 * 330456.7
    path = tmp_path / "report.html"
    report.write_report(path, content, tracked(), IMAGE, AFFINE, DISTANCES)
    assert "0.50 times as fast as deterministic" in read(path).text
    assert "660,913 steps/s" in read(path).text


def test_the_page_has_the_command_versions_inputs_and_options(page):
    text = read(page).text
    for words in (
        "2031-02-03",
        "dipy_compare_rnn 'a <b>.pam5' fa.nii.gz",
        "numpy 2.4.6",
        "processor a fast one",
        "threads 3",
        "fODF a <b>.pam5",
        "step_size 0.25",
        "max_angle 30",
        "parameters 49100",
        "0f" * 32,
        "not for clinical use",
    ):
        assert words in text
    assert "random_seed" not in text  # its value is None
    assert "None" not in text and "nan" not in text


def test_optional_parts_are_left_out(short_page):
    reader = read(short_page)
    for words in ("Speed", "aseline", "Known bundles", "Options", "Model", "Seeds"):
        assert words not in reader.text
    assert reader.rows["Alike within 2 mm"][0] == "46.1 % 44.7 to 47.5"
    assert len(reader.rows["Alike within 2 mm"]) == 2
    assert len(reader.rows["Streamlines"]) == 3


def test_markup_in_names_is_escaped(page):
    source = page.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert "<h1>Head &lt;b&gt;7&lt;/b&gt;</h1>" in source
    assert "the &lt;new&gt; one" in source
    assert "<b>" not in source and "<new>" not in source


def test_the_page_makes_no_network_requests(page):
    source = page.read_text(encoding="utf-8")
    assert get_plotlyjs() in source
    own = source.replace(get_plotlyjs(), "")
    assert all(link.startswith("data:") for link in read(page).asked)
    assert not re.search(r"https?://|//cdn|@import|url\(|fetch\(", own)
    assert "default-src 'none'" in own


def test_the_page_has_less_than_8_mb(page):
    assert page.stat().st_size < 8e6


def test_all_plots_are_on_the_page(page):
    drawn = [link for link in read(page).asked if link.startswith("data:image/png")]
    assert len(drawn) == len(set(drawn)) == 7


def view(path):
    """Return the streamlines of each tractogram in the 3D view, and its corners."""
    data = re.search(r"const view = (.*);\n", path.read_text(encoding="utf-8"))
    seen = json.loads(data.group(1))
    lines = {}
    for key, packed in seen["packed"].items():
        points = np.frombuffer(b64decode(packed), "<u2").reshape(-1, 3)
        ends = np.flatnonzero((points == 65535).all(axis=1))
        lines[key] = [
            seen["low"] + seen["unit_mm"] * part[part[:, 0] < 65535]
            for part in np.split(points, ends)
        ]
        assert not len(lines[key].pop())  # each streamline has an end mark
    return lines, seen["low"], seen["high"]


def test_the_3d_view_holds_both_tractograms(page):
    lines, low, high = view(page)
    straight, bent = lines["candidate"]  # the empty streamline is left out
    assert_allclose(straight[[0, -1]], [[2, 9, 7], [18, 9, 7]])
    assert_allclose(bent[[0, -1]], [[2, 9, 7], [10, 14, 7]])
    assert len(lines["reference"]) == 3
    for line in lines["reference"]:
        assert_allclose(line[:, 1], 10.5)
    assert low == [1, 8, 6] and high == [19, 15, 8]


@pytest.mark.parametrize(
    ("shift_mm", "scale", "within_mm"),
    # The error is at most half a unit. The unit is 0.1 mm, but for a box of 160 m and 1
    # mm on either side it is the size of the box / 65534. At 400 m from the origin,
    # single precision adds 0.03 mm.
    [(-5000.0, 1, 0.05), (4e5, 1, 0.07), (0.0, 1e4, 160_002 / 65534 / 2)],
)
def test_the_3d_view_is_accurate_at_any_position_and_size(
    tmp_path, coarse, shift_mm, scale, within_mm
):
    affine = np.diag([scale, scale, scale, 1.0])
    affine[:3, 3] = shift_mm
    lines = {
        key: [line * scale + shift_mm for line in tracked()[key][:2]]
        for key in ("candidate", "reference")
    }
    path = tmp_path / "report.html"
    distances = {"candidate": np.array([1.5, 3.5])}
    report.write_report(path, only_required(metrics()), lines, IMAGE, affine, distances)
    seen, _, _ = view(path)
    for key, expected in lines.items():
        for line, (first, *_, last) in zip(seen[key], expected, strict=True):
            assert_allclose(line[[0, -1]], [first, last], atol=1.01 * within_mm)


def test_the_3d_view_has_a_maximum_number_of_streamlines(tmp_path, coarse, monkeypatch):
    monkeypatch.setattr(page_module, "N_IN_3D", 2)
    path = tmp_path / "report.html"
    report.write_report(path, metrics(), tracked(), IMAGE, AFFINE, DISTANCES)
    assert len(view(path)[0]["reference"]) == 2


def test_empty_tractograms_make_a_page(tmp_path, coarse):
    path = tmp_path / "report.html"
    nothing = {"candidate": [], "reference": []}
    content = only_required(metrics())
    content["between"] = content["each"] = []
    report.write_report(
        path, content, nothing, IMAGE, AFFINE, {"candidate": np.array([])}
    )
    reader = read(path)
    assert "in each voxel, the streamline densities are equal" in reader.text
    assert "The pairs that differ most" not in reader.text


def test_partners_may_have_other_indices(tmp_path, coarse):
    mine, partner, other = [ALONG_X, BENT], BENT + [0, 0, 2], BESIDE
    shown = []
    for reference, pairs in (
        ([other, other, partner], [2, -1]),
        ([partner, other], None),
    ):
        path = tmp_path / "report.html"
        report.write_report(
            path,
            only_required(metrics()),
            {"candidate": mine, "reference": reference},
            IMAGE,
            AFFINE,
            {"candidate": np.array([5.0, np.inf])},
            pairs,
        )
        shown.append(read(path).asked[-1])  # the pairs are the last plot
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("n_distances", "pairs", "message"),
    [
        (3, None, "3 streamlines and the reference has 2; pairs is needed"),
        (3, [0, 1], "3 streamlines, 2 pairs and 3 distances"),
        (2, [0, 1, -1], "3 streamlines, 3 pairs and 2 distances"),
        (3, [0, 1, 2], "pairs holds 0 to 2; -1 \\(no partner\\) to 1 is allowed"),
        (3, [0, 1, -2], "pairs holds -2 to 1; -1 \\(no partner\\) to 1 is allowed"),
    ],
)
def test_differing_numbers_and_invalid_pairs_are_refused(
    tmp_path, n_distances, pairs, message
):
    some = {"candidate": [ALONG_X] * 3, "reference": [BESIDE] * 2}
    distances = {"candidate": np.ones(n_distances)}
    with pytest.raises(ValueError, match=message):
        report.write_report(
            tmp_path / "a.html", metrics(), some, IMAGE, AFFINE, distances, pairs
        )
    assert not list(tmp_path.iterdir())


def test_after_an_error_an_older_page_is_unchanged(tmp_path, coarse):
    path = tmp_path / "report.html"
    path.write_text("the last one")
    content = metrics()
    content["between"].append(None)
    with pytest.raises(AttributeError):
        report.write_report(path, content, tracked(), IMAGE, AFFINE, DISTANCES)
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "the last one"


@pytest.mark.parametrize("missing", ["jinja2", "plotly"])
def test_a_missing_package_is_reported_before_any_work(missing):
    code = f"""
import sys
sys.modules["{missing}"] = None
from dipy_rnn import report
try:
    report.write_report(None, {{}}, {{}}, None, None, {{}})
except ImportError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == (
        "A report needs jinja2, matplotlib and plotly. "
        "Install them with: pip install dipy_rnn[viz]\n"
    ), ran.stderr


WATCH = """<script>
window.told = [];
addEventListener("error", (event) => told.push(event.message));
addEventListener("unhandledrejection", (event) => told.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => told.push(event.blockedURI));
console.error = (...words) => told.push(words.join(" "));
// Otherwise a canvas is cleared as soon as it has been shown.
const plain = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, options) {
  return plain.call(this, kind, {...options, preserveDrawingBuffer: true});
};
</script>"""
TELL = """<script>
const lit = (canvas) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const {data} = context.getImageData(0, 0, copy.width, copy.height);
  let red = 0;
  for (let i = 0; i < data.length; i += 4)
    red += data[i] > 150 && data[i + 1] < 80 && data[i + 2] < 80;
  return red;
};
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const eye = (view) => view.layout.scene.camera.eye.x;
// Drag with the mouse; return how many camera positions of the other view followed.
const drag = async (view, other) => {
  view.scrollIntoView();
  await wait(100);
  const canvas = view.querySelector("canvas");
  const {left, top} = canvas.getBoundingClientRect();
  const mouse = (kind, x, buttons) => canvas.dispatchEvent(new MouseEvent(kind,
    {bubbles: true, view: window, buttons, clientX: left + x, clientY: top + 100}));
  const seen = new Set([eye(other)]);
  mouse("mousedown", 100, 1);
  for (let x = 100; x < 200; x += 20) {
    mouse("mousemove", x, 1);
    await wait(200);
    seen.add(eye(other));
  }
  mouse("mouseup", 200, 0);
  await wait(1000);
  return seen.size - 1;
};
addEventListener("load", async () => {
  await wait(3000);
  const views = [...document.querySelectorAll("[id^=view-]")];
  const canvases = views.map((view) => lit(view.querySelector("canvas")));
  let turns = 0;
  const count = () => { turns += 1; };
  views.forEach((view) => view.on("plotly_relayout", count));
  const eyes = [];
  for (const [i, x] of [[0, 0.5], [1, 1.75]]) {
    const camera = {...views[i].layout.scene.camera, eye: {x, y: 0.3, z: 1}};
    Plotly.relayout(views[i], {"scene.camera": camera});
    await wait(1500);
    eyes.push(views.map(eye));
  }
  views.forEach((view) => view.removeListener("plotly_relayout", count));
  const followed = await drag(views[0], views[1]);
  eyes.push(views.map(eye));
  const out = document.createElement("pre");
  out.id = "told";
  out.textContent = JSON.stringify({told, canvases, eyes, turns, followed});
  document.body.append(out);
});
</script>"""


def browse(page, folder, extra=""):
    """Open a copy of a page in a browser, and return what its scripts observed."""
    source = page.read_text(encoding="utf-8")
    copy = folder / "copy.html"
    head, body = source.split("<title>", 1)
    before, after = body.rsplit("</body>", 1)
    copy.write_text(
        f"{head}{WATCH}<title>{before}{extra}{TELL}</body>{after}", encoding="utf-8"
    )
    ran = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--disable-background-networking",
            "--no-first-run",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1280,800",
            "--virtual-time-budget=15000",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(r'<pre id="told">(.*?)</pre>', ran.stdout)
    assert found, ran.stderr[-2000:]
    return json.loads(found.group(1))


needs_a_browser = pytest.mark.skipif(
    BROWSER is None, reason="needs chromium, chromium-browser or google-chrome"
)


@needs_a_browser
def test_a_browser_shows_both_views_and_rotates_them_together(page, tmp_path):
    seen = browse(page, tmp_path)
    assert seen["told"] == []
    assert min(seen["canvases"]) > 20  # red: the streamlines along x
    assert seen["eyes"][:2] == [[0.5, 0.5], [1.75, 1.75]]
    assert seen["turns"] == 4  # each view once for itself and once for the other
    assert seen["followed"] > 2
    dragged, other = seen["eyes"][2]
    assert dragged == other != 1.75


@needs_a_browser
def test_a_network_request_of_the_page_would_be_noticed(page, tmp_path):
    extra = '<img src="https://example.org/a.png"><script>throw Error("oh")</script>'
    seen = browse(page, tmp_path, extra)
    assert "https://example.org/a.png" in seen["told"]
    assert any("oh" in words for words in seen["told"])
