"""The modes of open() on a host, and the parameters of run and start."""

from __future__ import annotations

import pytest

from labctl.api.async_lab import AsyncHost
from labctl.api.host import Host, open_flags


@pytest.mark.parametrize("mode", ["", "rw", "rr", "bt", "rbt", "q", "r++"])
def test_a_mode_that_open_does_not_know_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        open_flags(mode)


@pytest.mark.parametrize("host", [Host, AsyncHost])
@pytest.mark.parametrize("name", ["run", "start"])
def test_a_type_error_names_the_method_that_was_called(host: type, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{host.__name__}\.{name}\(\) got an unexpected keyword argument 'bogus'$"):
        getattr(host, name)(object.__new__(host), ["true"], bogus=1)
