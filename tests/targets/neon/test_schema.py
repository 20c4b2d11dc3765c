"""The field numbers kwsq writes are those of the schema ai-edge-litert was generated from."""

from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as generated

from kwsq.targets.neon import schema
from kwsq.targets.neon.options import ACTIVATION_CODE
from kwsq.targets.neon.schema import Field

TABLES = {
    name: table
    for name, table in vars(schema).items()
    if isinstance(table, type) and any(isinstance(f, Field) for f in vars(table).values())
}


class Recorder:
    """Stands where the generated code expects a builder and notes what it would write."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda slot, value, default: self.calls.append((name, slot, default))


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.mark.parametrize("table", TABLES)
def test_fields_have_the_generated_slots_types_and_defaults(table: str) -> None:
    for name, field in vars(TABLES[table]).items():
        if not isinstance(field, Field):
            continue
        recorder = Recorder()
        value = 0 if field.kind is schema.Kind.OFFSET else 1
        getattr(generated, f"{table}Add{camel(name)}")(recorder, value)
        assert recorder.calls == [(f"Prepend{field.kind.value[0]}Slot", field.slot, field.default)], name


@pytest.mark.parametrize("table", [name for name in vars(schema) if name.endswith("Options")])
def test_options_have_the_generated_union_code(table: str) -> None:
    assert getattr(generated.BuiltinOptions, table) == getattr(schema, table).UNION_CODE


def test_enumerations() -> None:
    assert (schema.SAME, schema.VALID) == (generated.Padding.SAME, generated.Padding.VALID)
    for activation, code in ACTIVATION_CODE.items():
        assert code == getattr(generated.ActivationFunctionType, activation.name)
    for name in ("CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"):
        assert schema.BUILTIN_OPERATOR[name] == getattr(generated.BuiltinOperator, name)
    assert schema.TENSOR_TYPE["INT4"] == generated.TensorType.INT4
