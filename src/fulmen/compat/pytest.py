"""`pytest -p fulmen.compat.pytest`: the old import names mean Fulmen in the tests and in what they start."""

from fulmen.compat import install

install()
