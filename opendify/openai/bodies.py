"""Request bodies -> their Structs, and what is wrong with those that are none."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from opendify.errors import InvalidRequest, from_validation

T = TypeVar("T")


def decoder(schema: type[T]) -> Callable[[bytes], T]:
    """What decodes a body of this schema, made once. It raises InvalidRequest naming the field that does not fit."""
    decode = msgspec.json.Decoder(schema).decode

    def read(body: bytes) -> T:
        try:
            return decode(body)
        except msgspec.DecodeError as error:
            raise from_validation(error) from None
        except UnicodeDecodeError:
            raise InvalidRequest("The request body is not UTF-8.") from None
        except RecursionError:
            raise InvalidRequest("The request body is nested too deeply.") from None

    return read
