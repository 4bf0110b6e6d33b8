"""Found through PYTHONPATH by child processes: puts the alias in its own place."""

from fulmen.compat import install
from fulmen.compat.finder import replace

install()
replace(__name__)
