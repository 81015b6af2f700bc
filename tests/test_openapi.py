"""The OpenAPI document is true: no call makes the server fail, and every answer is one that the document tells of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fuzz_api import fuzz
from serving import doors

from phonofilm.serve import sender


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with doors(tmp_path_factory.mktemp("doors")) as api:
        return api.get("/openapi.json").json()


def test_every_operation_says_what_it_answers(document: Any) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            assert {"200", "400", "401", "403", "413", "429", "500"} <= set(answers) and "422" not in answers
            assert answers["200"]["content"] and operation["description"], (method, path)
            if "{" in path:
                assert "404" in answers, path
            wanted = "GoogleErrorEnvelope" if path.startswith("/v1beta") else "ErrorEnvelope"
            for status in (status for status in answers if status >= "400"):
                schema = answers[status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": f"#/components/schemas/{wanted}"}, (path, status)
            if method == "post" and operation.get("requestBody"):
                kinds = set(operation["requestBody"]["content"])
                assert kinds in ({"application/json"}, {"application/json", "multipart/form-data"})
    assert set(document["components"]["securitySchemes"]) == {"bearer", "google"}


def test_the_server_withstands_what_fits_the_document_and_what_does_not(tmp_path: Path, document: Any) -> None:
    call = sender.call
    report = fuzz(tmp_path, cases=300, examples=18, systematic=False)
    assert sender.call is call  # what the fuzzing puts in its place does not stay
    assert not report.failures, "\n".join(f"{where}\n{told}" for where, told in report.failures.items())
    assert report.cases >= 300 and max(report.answers) < 500 and {200, 400, 404} <= set(report.answers)
    operations = {f"{m.upper()} {path}" for path, found in document["paths"].items() for m in found}
    assert report.operations == operations
