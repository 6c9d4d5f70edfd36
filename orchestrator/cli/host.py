"""Commands about this host and its stacks: check it, build them."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import options


@click.command("build", short_help="Build the stacks.")
@options.stacks
@options.stack_folders
@click.option(
    "--launcher", **options.one_of("auto", "docker", "local", help="Build images, or environments for plain processes.")
)
@click.option("--again", is_flag=True, help="Build also what is there already.")
@click.option("--clean", is_flag=True, help="Build nothing; remove images that no stack uses any more.")
def build_command(
    stacks: tuple[str, ...], stack_folders: tuple[Path, ...], launcher: str, *, again: bool, clean: bool
) -> int:
    """Build the stacks' images (or, without Docker, their environments)."""
    from orchestrator.build.image import clean_images
    from orchestrator.build.ready import build_stacks
    from orchestrator.plan.choice import select_stacks

    chosen = select_stacks(stacks, stack_folders)
    return clean_images(chosen) if clean else build_stacks(chosen, launcher=launcher, again=again)


@click.command("doctor", short_help="Check this host.")
@options.stack_folders
@click.option("--format", "form", **options.one_of("text", "json"))
def doctor_command(stack_folders: tuple[Path, ...], form: str) -> int:
    """Check this host: GPU, driver, Docker Engine, how a container gets the GPU, disk, stacks."""
    from orchestrator.runner.doctor import doctor

    return doctor(stack_folders, form)


@click.command("compose-gpu", short_help="Print what compose needs where no NVIDIA toolkit is.")
@options.gpu
def compose_gpu_command(gpu: str | None) -> None:
    """Print a second file for docker compose: its services get a GPU's devices and the driver's libraries.

    For a host without NVIDIA's container toolkit. Services whose image `orchestrator build` has built are in it.
    """
    from orchestrator.base.text import show
    from orchestrator.runner.compose_gpu import override

    show(override(gpu))
