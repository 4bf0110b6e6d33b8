from __future__ import annotations

from fulmen.compat import names


def all_names():
    return [(path, name, where) for path, row in names.rows().items() for name, where in row.homes.items()]


def test_every_name_of_the_table_is_there():
    lost = []
    for path, name, where in all_names():
        try:
            names.load(where)
        except Exception as error:
            lost.append(f"{path}: {name}: {error!r}")

    assert lost == []


def test_a_module_below_fabric_has_the_row_of_the_same_path():
    assert names.table_path("lightning.fabric.utilities.rank_zero") == "utilities.rank_zero"
    assert names.table_path("lightning_fabric.strategies") == "strategies"
    assert names.table_path("lightning.fabric") == names.table_path("lightning_fabric") == "fabric"
    assert names.table_path("lightning.pytorch") == names.table_path("pytorch_lightning") == ""


def test_nothing_is_there_and_missing_at_once():
    both = [(path, name) for path, name, _ in all_names() if names.missing(path, name)]

    assert both == []


def test_the_table_knows_the_eras():
    assert names.rows()["callbacks.base"][:2] == ("0.7", "1.9")
    assert names.rows()["callbacks"][:2] == ("0.5", "-")
