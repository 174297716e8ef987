"""How many transfers a second django-hordak makes: ``python -m benchmarks.hordak_transfers``.

It reads ``DATABASE_URL`` and ``SECONDS`` and prints the rate. On its own database, with its own
migrations, one transfer in each transaction, as its documentation shows it.
"""

import os
import random
import time

import django
from django.conf import settings
from sqlalchemy import make_url

ACCOUNTS = 100


def configure() -> None:
    """Django with hordak and nothing else."""
    url = make_url(os.environ["DATABASE_URL"])
    settings.configure(
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "mptt",
            "hordak",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": url.database,
                "USER": url.username,
                "PASSWORD": url.password,
                "HOST": url.host,
                "PORT": url.port,
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        DEFAULT_CURRENCY="USD",
        CURRENCIES=["USD"],
        HORDAK_CURRENCIES=["USD"],
        USE_TZ=True,
        SECRET_KEY="benchmark",
    )
    django.setup()


def main() -> None:
    configure()
    from django.core.management import call_command
    from hordak.models import Account, AccountType
    from moneyed import Money

    call_command("migrate", verbosity=0)
    if Account.objects.count() == 0:
        for number in range(ACCOUNTS):
            Account.objects.create(
                name=f"Account {number}",
                code=str(number),
                type=AccountType.liability,
                currencies=["USD"],
            )
    accounts = list(Account.objects.all())
    seconds = float(os.environ["SECONDS"])
    began, count = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        sender, receiver = random.sample(accounts, 2)
        sender.transfer_to(receiver, Money("1.00", "USD"))
        count += 1
    print(count / (time.monotonic() - began))


if __name__ == "__main__":
    main()
