"""A scraper for sphinx-gallery: saves the figures that a tutorial holds in variables.

`dipy_rnn.report` makes figures without `matplotlib.pyplot`, so the scraper of
sphinx-gallery does not find them.
"""

from matplotlib.figure import Figure
import matplotlib.pyplot as plt
from sphinx_gallery.scrapers import figure_rst


def scrape(block, block_vars, gallery_conf):
    """Save the figures that a block of a tutorial added to the variables."""
    known = block_vars["example_globals"].setdefault("__figures__", [])
    # sphinx-gallery itself saves the figures of pyplot.
    known += [plt.figure(number) for number in plt.get_fignums()]
    paths = []
    for value in list(block_vars["example_globals"].values()):
        if isinstance(value, Figure) and value not in known:
            known.append(value)
            path = next(block_vars["image_path_iterator"])
            value.savefig(path, dpi=120, facecolor=value.get_facecolor())
            paths.append(path)
    return figure_rst(paths, gallery_conf["src_dir"])


def _get_sg_image_scraper():
    return scrape
