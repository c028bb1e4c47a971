"""For sphinx-gallery: figures that a tutorial keeps in a variable.

`dipy_rnn.report` makes figures that matplotlib.pyplot does not know.
"""

from matplotlib.figure import Figure
import matplotlib.pyplot as plt
from sphinx_gallery.scrapers import figure_rst


def scrape(block, block_vars, gallery_conf):
    """Save the figures among the variables of a tutorial that are new in a block."""
    known = block_vars["example_globals"].setdefault("__figures__", [])
    # Those of pyplot are saved by sphinx-gallery itself.
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
