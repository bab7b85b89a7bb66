"""The JSON schema that editors use, against the shipped configs, by a validator that we did not write."""

import json

import pytest
import yaml

from unildiff.cli.main import main
from unildiff.utils.paths import config_names, config_path

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def schema() -> dict:
    from unildiff.cli.schema import config_schema

    return config_schema()


@pytest.mark.parametrize("name", [name for name in config_names() if not name.startswith("configs/data/")])
def test_shipped_configs_are_valid(name: str, schema: dict) -> None:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(yaml.safe_load(config_path(name).read_text()))
    assert not [error.json_path for error in errors]


def test_mistakes_are_found(schema: dict) -> None:
    for mistake in ({"trainer": {"max_stepz": 3}}, {"modell": 1}, {"seed_everything": "many"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(mistake, schema)


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--print_schema"]) == 0
    assert "model" in json.loads(capsys.readouterr().out)["properties"]
