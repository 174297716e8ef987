"""Numbers in the environment: written in digits, or the process says which one is not."""

import pytest

from chassis.settings import ServiceSettings, load_settings

PLACES = {"AMQP_URI": "amqp://127.0.0.1", "DATABASE_URL": "postgresql://127.0.0.1"}


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLACES.items():
        monkeypatch.setenv(name, value)


def test_numbers_and_delays_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEALTH_PORT", "8080")
    monkeypatch.setenv("RETRY_DELAYS_S", "1,60")

    settings = load_settings(ServiceSettings)

    assert (settings.health_port, settings.retry_delays_s) == (8080, (1, 60))


@pytest.mark.parametrize("name", ["HEALTH_PORT", "RETRY_DELAYS_S"])
@pytest.mark.parametrize("text", ["1_0", "+10", " 10", "10.0", "１０", "1e1", ""])
def test_a_number_that_is_not_written_in_digits_stops_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    monkeypatch.setenv(name, text)

    with pytest.raises(SystemExit):
        load_settings(ServiceSettings)

    assert capsys.readouterr().err.startswith(f"Setting {name}: ")
