"""What an operator lets migrations load from: buckets of S3 services and other databases, by their names.

In the worker's settings and never in a migration file: whoever may enqueue names a source, and reads nothing that is none.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class SourceSettings(BaseModel):
    """A place that migrations may load from."""

    # An error names the field and never shows what stands in it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: SourceName
    kind: Literal["s3", "postgres"]
    #: `postgres`: its URL; the password is in it, or where libpq looks.
    url: SecretStr | None = None
    #: `s3`: the rest.
    bucket: Annotated[str | None, Field(min_length=1)] = None
    #: What the key of every object begins with; nothing else in the bucket is read.
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]*$", max_length=200)] = ""
    region: Annotated[str, Field(max_length=60)] = ""
    #: Another service than Amazon's, such as https://minio.internal:9000.
    endpoint_url: str | None = None
    #: Without them boto3 looks where it always looks (AWS_… variables, a role of the machine).
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name, kind in (("bucket", "s3"), ("url", "postgres")):
            if (getattr(self, name) is None) == (self.kind == kind):
                msg = f"a source of kind {self.kind} {'needs a' if self.kind == kind else 'has no'} {name}"
                raise ValueError(msg)
        if (self.access_key is None) != (self.secret_key is None):
            msg = "access_key and secret_key belong together"
            raise ValueError(msg)
        return self
