"""The command ``mycelium``: buy, look after what runs, and watch the money, from a terminal.

Exit codes: 0 done; 1 you said no, or interrupted it; 2 the command or its arguments are wrong;
3 not logged in; 4 short of funds; 5 refused; 6 no such thing; 7 the site is away.
"""

import os

import click
from click.shell_completion import get_completion_class

from mycelium_cli import account, admin, cart, deployments, selling, shop, tokens, wallet


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 you said no; 2 wrong arguments; 3 not logged in; 4 short of"
    " funds; 5 refused; 6 no such thing; 7 the site is away.",
)
@click.version_option(package_name="mycelium-client")
@click.pass_context
def main(context: click.Context) -> None:
    """Buy cloud resources on USD credits."""
    if os.environ.get("NO_COLOR"):
        context.color = False


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete the command: eval "$(mycelium completion bash)"."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"There is no completion for {shell}.")
    click.echo(found(main, {}, "mycelium", "_MYCELIUM_COMPLETE").source())


for part in (account, tokens, shop, cart, deployments, wallet, selling, admin):
    for command in part.COMMANDS:
        main.add_command(command)
