"""The result of each partition of a wide run: two things that Dagster 1.13 offers no public way to.

Both use private parts of Dagster, and a test pins each. Where Dagster has changed, both warn once and fall back to the
public way: slower metadata, and every partition of the range materialized.
"""

from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg

# The errors of a private part that is gone or has changed.
PRIVATE_PART_CHANGED = (ImportError, AttributeError, TypeError)
# Fall-backs that this process has warned of.
_warned: set[str] = set()


def describe_partitions(context: dg.AssetExecutionContext, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Attach metadata to partitions of the current step's asset, all at once.

    The public `add_asset_metadata(partition_key=...)` is quadratic: 1.4 s at 487 partitions, minutes at 5,000.
    """
    try:
        _describe_at_once(context, metadata)
    except PRIVATE_PART_CHANGED as error:
        _warn_once(context, "metadata is attached one partition at a time, which takes minutes at 5,000 series", error)
        for partition_key, entries in metadata.items():
            context.add_asset_metadata(dict(entries), partition_key=partition_key)


def _describe_at_once(context: dg.AssetExecutionContext, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    from dagster._core.execution.context.metadata_logging import (  # noqa: PLC0415
        AssetMetadataHandle,
        OutputMetadataAccumulator,
    )

    step = context.op_execution_context._step_execution_context  # noqa: SLF001
    handles = {
        AssetMetadataHandle(asset_key=context.asset_key, partition_key=key): dict(entries)
        for key, entries in metadata.items()
    }
    present = step._metadata_accumulator.per_output_metadata  # noqa: SLF001
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata={**present, **handles})  # noqa: SLF001


def materialize_only(context: dg.AssetExecutionContext, partition_keys: Collection[str]) -> bool:
    """Let the current step materialize these partitions of its range, and no others; without any, it materializes none.

    The step ends as success either way. False where Dagster has changed, so that it materializes the whole range.
    """
    if set(partition_keys) == set(context.partition_keys):
        return True
    try:
        _narrow_outputs(context, set(partition_keys))
    except PRIVATE_PART_CHANGED as error:
        _warn_once(context, "all partitions of the range count as materialized, also those that failed", error)
        return False
    return True


def _narrow_outputs(context: dg.AssetExecutionContext, partition_keys: set[str]) -> None:
    from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset  # noqa: PLC0415

    step = context.op_execution_context._step_execution_context  # noqa: SLF001
    original = step.get_output_context

    def narrowed(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        subset = getattr(output, "_asset_partitions_subset", None)
        if subset is not None:
            # Dagster's keys know their dimensions; the plain texts do not.
            chosen = {key for key in subset.get_partition_keys() if key in partition_keys}
            output._asset_partitions_subset = DefaultPartitionsSubset(chosen)  # noqa: SLF001
            if not chosen:
                # For an empty range Dagster records one materialization of the whole asset, unless the output is no
                # asset's.
                output._asset_key = None  # noqa: SLF001
        return output

    step.get_output_context = narrowed


def _warn_once(context: dg.AssetExecutionContext, consequence: str, error: Exception) -> None:
    if consequence not in _warned:
        _warned.add(consequence)
        context.log.warning(
            f"A private part of Dagster {dg.__version__} is not as in 1.13 ({type(error).__name__}: {error}): "
            f"{consequence}. Install the Dagster version that pyproject.toml allows."
        )
