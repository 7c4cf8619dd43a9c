"""What a wide run says about each of its partitions: the two things Dagster 1.13 has no public way to.

Both reach into private parts of Dagster, and a test pins each. Where Dagster has changed underneath, both fall back to
what is public: slower metadata, and every partition of the range materialized, as Dagster itself does it.
"""

from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg

# What it looks like when a private part is gone or has become another.
CHANGED_UNDERNEATH = (ImportError, AttributeError, TypeError)


def describe_partitions(context: dg.AssetExecutionContext, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Attach metadata to partitions of the asset at hand, all at once.

    The public `add_asset_metadata(partition_key=...)` is quadratic: 1.4 s at 487 partitions, minutes at 5,000.
    """
    try:
        _describe_at_once(context, metadata)
    except CHANGED_UNDERNEATH:
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


def materialize_only(context: dg.AssetExecutionContext, partition_keys: Collection[str]) -> None:
    """Let the step at hand count as a materialization of these partitions of its range, and of no others.

    At least one: a step without any must fail instead.
    """
    if set(partition_keys) == set(context.partition_keys):
        return
    try:
        _narrow_outputs(context, set(partition_keys))
    except CHANGED_UNDERNEATH:
        context.log.warning("All partitions of the range count as materialized, also those that failed.")


def _narrow_outputs(context: dg.AssetExecutionContext, partition_keys: set[str]) -> None:
    from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset  # noqa: PLC0415

    step = context.op_execution_context._step_execution_context  # noqa: SLF001
    original = step.get_output_context

    def narrowed(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        subset = getattr(output, "_asset_partitions_subset", None)
        if subset is not None:
            # Dagster's own keys, which know their dimensions, and not our plain texts.
            chosen = {key for key in subset.get_partition_keys() if key in partition_keys}
            output._asset_partitions_subset = DefaultPartitionsSubset(chosen)  # noqa: SLF001
        return output

    step.get_output_context = narrowed
