"""What every website in a process of tests makes anew, and always makes alike: the code of its
templates and of its addresses, two thirds of what a test of one page takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import pytest
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from werkzeug.routing import Rule

from services.gateway import templating


class _Templates(BytecodeCache):
    """Their code, kept under the name and the source. What stands in it as a constant is told by
    those too, for addresses are relative, and a page that only some websites have is in none but
    theirs."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._kept.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        assert bucket.code is not None
        self._kept[bucket.key, bucket.checksum] = bucket.code


class _Environment(templating.Environment):
    templates = _Templates()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"bytecode_cache": self.templates, **options})


@contextmanager
def made_once() -> Iterator[None]:
    make = Rule._compile_builder
    kept: dict[Any, Callable[..., tuple[str, str]]] = {}

    def make_once(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        # It takes the rule that it is made of from whoever calls it.
        defaults = tuple(sorted((rule.defaults or {}).items()))
        key = (rule.rule, rule.subdomain, rule.host, defaults, append_unknown)
        if key not in kept:
            kept[key] = make(rule, append_unknown)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", make_once)
        patch.setattr(templating, "Environment", _Environment)
        yield
