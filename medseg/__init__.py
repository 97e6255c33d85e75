"""medseg: give it a scan and a model; get named organs, counted objects, measures and exact files.

Names are handed out lazily (PEP 562), so that `import medseg` costs nothing: each is imported
from its module when it is first asked for. A new public name stands in three places below:
the imports for editors, `__all__` and the table; `tests/test_public_api.py` holds them equal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.active.loop import (
        CasePrediction,
        correct_case,
        labels_to_correct,
        learn_from_queue,
        open_queue,
        predict_case,
        predict_cases,
        read_queue_case,
    )
    from medseg.active.queue import CaseQueue, QueueCase, Round, save_queue
    from medseg.annotate.grow import grow_region
    from medseg.annotate.live_wire import LiveWire, fill_outline, live_wire, snap_to_edge
    from medseg.annotate.proposal import Proposal, accept_proposal
    from medseg.annotate.scribbles import grow_scribbles
    from medseg.annotate.settings import GrowSettings, LiveWireSettings, ScribbleSettings
    from medseg.annotate.slices import interpolate_slices
    from medseg.batch.run import BatchReport, CaseEvent
    from medseg.batch.segment_batch import BatchRecipe, segment_batch
    from medseg.batch.settings import BatchSettings
    from medseg.cache import set_cache_folder
    from medseg.errors import (
        CancelledError,
        DeviceMemoryError,
        DownloadError,
        GeometryError,
        MedsegError,
        ModelError,
        ModelNotFoundError,
        ReadError,
        SettingsError,
        VolumeError,
        WriteError,
    )
    from medseg.export.dicom_report import write_dicom_report
    from medseg.export.dicom_rtstruct import write_dicom_rtstruct
    from medseg.export.dicom_seg import write_dicom_seg
    from medseg.export.meshes import Mesh, mesh_of_mask, write_stl
    from medseg.export.network import ExportedModel, export_model
    from medseg.export.settings import ExportSettings
    from medseg.export.tables import write_regions_csv
    from medseg.export.write import write_result
    from medseg.geometry import Geometry
    from medseg.inference.estimate import estimate_seconds
    from medseg.inference.plan import InferencePlan, plan_inference
    from medseg.inference.predict import plan_case, predict
    from medseg.inference.settings import InferenceSettings
    from medseg.inference.slab_inferer import SlabInferer
    from medseg.instances.edits import (
        Edit,
        delete_objects,
        edited,
        merge_objects,
        split_object,
        split_object_at,
    )
    from medseg.instances.foreground import bright_foreground
    from medseg.instances.ome_zarr import load_store, open_store
    from medseg.instances.separate import separate
    from medseg.instances.settings import SeparationSettings, separation_preset
    from medseg.instances.store import separate_store
    from medseg.io.case_files import read_case
    from medseg.io.dicom_rtstruct_reader import read_dicom_rtstruct
    from medseg.io.dicom_seg_reader import read_dicom_seg
    from medseg.io.dicom_series import SeriesInfo, list_series, read_series
    from medseg.io.dicom_source import DicomSource, DicomVolume, labels_on_slices
    from medseg.io.formats import read, read_all, read_labels, write_labels, write_volume
    from medseg.io.notices import ReadNotice
    from medseg.labels import Code, Label, LabelSet
    from medseg.measure.evaluate import InstanceScore, LabelScore, evaluate_instances, evaluate_labels
    from medseg.measure.regions import Region, measure_regions
    from medseg.measure.shape import Shape, measure_shapes
    from medseg.models.card import Card
    from medseg.models.joining import join_models
    from medseg.models.loading import Model, load_model
    from medseg.models.registry import ModelEntry, list_models
    from medseg.object_store import segment_store
    from medseg.objects import objects_as_labels
    from medseg.pipeline import segment
    from medseg.progress import CancelToken, Progress
    from medseg.refine.labels import refine_labels
    from medseg.refine.settings import RefinementSettings
    from medseg.resample import resample_labels, resample_volume
    from medseg.result import Result, RunRecord
    from medseg.training.settings import FineTuneSettings, TrainingSettings
    from medseg.training.train_model import Trained, train
    from medseg.volume import InstanceVolume, LabelVolume, Volume

__version__ = "0.1.0"

__all__ = [
    "BatchRecipe",
    "BatchReport",
    "BatchSettings",
    "CancelToken",
    "CancelledError",
    "Card",
    "CaseEvent",
    "CasePrediction",
    "CaseQueue",
    "Code",
    "DeviceMemoryError",
    "DicomSource",
    "DicomVolume",
    "DownloadError",
    "Edit",
    "ExportSettings",
    "ExportedModel",
    "FineTuneSettings",
    "Geometry",
    "GeometryError",
    "GrowSettings",
    "InferencePlan",
    "InferenceSettings",
    "InstanceScore",
    "InstanceVolume",
    "Label",
    "LabelScore",
    "LabelSet",
    "LabelVolume",
    "LiveWire",
    "LiveWireSettings",
    "MedsegError",
    "Mesh",
    "Model",
    "ModelEntry",
    "ModelError",
    "ModelNotFoundError",
    "Progress",
    "Proposal",
    "QueueCase",
    "ReadError",
    "ReadNotice",
    "RefinementSettings",
    "Region",
    "Result",
    "Round",
    "RunRecord",
    "ScribbleSettings",
    "SeparationSettings",
    "SeriesInfo",
    "SettingsError",
    "Shape",
    "SlabInferer",
    "Trained",
    "TrainingSettings",
    "Volume",
    "VolumeError",
    "WriteError",
    "__version__",
    "accept_proposal",
    "bright_foreground",
    "correct_case",
    "delete_objects",
    "edited",
    "estimate_seconds",
    "evaluate_instances",
    "evaluate_labels",
    "export_model",
    "fill_outline",
    "grow_region",
    "grow_scribbles",
    "interpolate_slices",
    "join_models",
    "labels_on_slices",
    "labels_to_correct",
    "learn_from_queue",
    "list_models",
    "list_series",
    "live_wire",
    "load_model",
    "load_store",
    "measure_regions",
    "measure_shapes",
    "merge_objects",
    "mesh_of_mask",
    "objects_as_labels",
    "open_queue",
    "open_store",
    "plan_case",
    "plan_inference",
    "predict",
    "predict_case",
    "predict_cases",
    "read",
    "read_all",
    "read_case",
    "read_dicom_rtstruct",
    "read_dicom_seg",
    "read_labels",
    "read_queue_case",
    "read_series",
    "refine_labels",
    "resample_labels",
    "resample_volume",
    "save_queue",
    "segment",
    "segment_batch",
    "segment_store",
    "separate",
    "separate_store",
    "separation_preset",
    "set_cache_folder",
    "snap_to_edge",
    "split_object",
    "split_object_at",
    "train",
    "write_dicom_report",
    "write_dicom_rtstruct",
    "write_dicom_seg",
    "write_labels",
    "write_regions_csv",
    "write_result",
    "write_stl",
    "write_volume",
]

_HOME = {
    "BatchRecipe": "medseg.batch.segment_batch",
    "BatchReport": "medseg.batch.run",
    "BatchSettings": "medseg.batch.settings",
    "CancelToken": "medseg.progress",
    "CancelledError": "medseg.errors",
    "Card": "medseg.models.card",
    "CaseEvent": "medseg.batch.run",
    "CasePrediction": "medseg.active.loop",
    "CaseQueue": "medseg.active.queue",
    "Code": "medseg.labels",
    "DeviceMemoryError": "medseg.errors",
    "DicomSource": "medseg.io.dicom_source",
    "DicomVolume": "medseg.io.dicom_source",
    "DownloadError": "medseg.errors",
    "Edit": "medseg.instances.edits",
    "ExportSettings": "medseg.export.settings",
    "ExportedModel": "medseg.export.network",
    "FineTuneSettings": "medseg.training.settings",
    "Geometry": "medseg.geometry",
    "GeometryError": "medseg.errors",
    "GrowSettings": "medseg.annotate.settings",
    "InferencePlan": "medseg.inference.plan",
    "InferenceSettings": "medseg.inference.settings",
    "InstanceScore": "medseg.measure.evaluate",
    "InstanceVolume": "medseg.volume",
    "Label": "medseg.labels",
    "LabelScore": "medseg.measure.evaluate",
    "LabelSet": "medseg.labels",
    "LabelVolume": "medseg.volume",
    "LiveWire": "medseg.annotate.live_wire",
    "LiveWireSettings": "medseg.annotate.settings",
    "MedsegError": "medseg.errors",
    "Mesh": "medseg.export.meshes",
    "Model": "medseg.models.loading",
    "ModelEntry": "medseg.models.registry",
    "ModelError": "medseg.errors",
    "ModelNotFoundError": "medseg.errors",
    "Progress": "medseg.progress",
    "Proposal": "medseg.annotate.proposal",
    "QueueCase": "medseg.active.queue",
    "ReadError": "medseg.errors",
    "ReadNotice": "medseg.io.notices",
    "RefinementSettings": "medseg.refine.settings",
    "Region": "medseg.measure.regions",
    "Result": "medseg.result",
    "Round": "medseg.active.queue",
    "RunRecord": "medseg.result",
    "ScribbleSettings": "medseg.annotate.settings",
    "SeparationSettings": "medseg.instances.settings",
    "SeriesInfo": "medseg.io.dicom_series",
    "SettingsError": "medseg.errors",
    "Shape": "medseg.measure.shape",
    "SlabInferer": "medseg.inference.slab_inferer",
    "Trained": "medseg.training.train_model",
    "TrainingSettings": "medseg.training.settings",
    "Volume": "medseg.volume",
    "VolumeError": "medseg.errors",
    "WriteError": "medseg.errors",
    "accept_proposal": "medseg.annotate.proposal",
    "bright_foreground": "medseg.instances.foreground",
    "correct_case": "medseg.active.loop",
    "delete_objects": "medseg.instances.edits",
    "edited": "medseg.instances.edits",
    "estimate_seconds": "medseg.inference.estimate",
    "evaluate_instances": "medseg.measure.evaluate",
    "evaluate_labels": "medseg.measure.evaluate",
    "export_model": "medseg.export.network",
    "fill_outline": "medseg.annotate.live_wire",
    "grow_region": "medseg.annotate.grow",
    "grow_scribbles": "medseg.annotate.scribbles",
    "interpolate_slices": "medseg.annotate.slices",
    "join_models": "medseg.models.joining",
    "labels_on_slices": "medseg.io.dicom_source",
    "labels_to_correct": "medseg.active.loop",
    "learn_from_queue": "medseg.active.loop",
    "list_models": "medseg.models.registry",
    "list_series": "medseg.io.dicom_series",
    "live_wire": "medseg.annotate.live_wire",
    "load_model": "medseg.models.loading",
    "load_store": "medseg.instances.ome_zarr",
    "measure_regions": "medseg.measure.regions",
    "measure_shapes": "medseg.measure.shape",
    "merge_objects": "medseg.instances.edits",
    "mesh_of_mask": "medseg.export.meshes",
    "objects_as_labels": "medseg.objects",
    "open_queue": "medseg.active.loop",
    "open_store": "medseg.instances.ome_zarr",
    "plan_case": "medseg.inference.predict",
    "plan_inference": "medseg.inference.plan",
    "predict": "medseg.inference.predict",
    "predict_case": "medseg.active.loop",
    "predict_cases": "medseg.active.loop",
    "read": "medseg.io.formats",
    "read_all": "medseg.io.formats",
    "read_case": "medseg.io.case_files",
    "read_dicom_rtstruct": "medseg.io.dicom_rtstruct_reader",
    "read_dicom_seg": "medseg.io.dicom_seg_reader",
    "read_labels": "medseg.io.formats",
    "read_queue_case": "medseg.active.loop",
    "read_series": "medseg.io.dicom_series",
    "refine_labels": "medseg.refine.labels",
    "resample_labels": "medseg.resample",
    "resample_volume": "medseg.resample",
    "save_queue": "medseg.active.queue",
    "segment": "medseg.pipeline",
    "segment_batch": "medseg.batch.segment_batch",
    "segment_store": "medseg.object_store",
    "separate": "medseg.instances.separate",
    "separate_store": "medseg.instances.store",
    "separation_preset": "medseg.instances.settings",
    "set_cache_folder": "medseg.cache",
    "snap_to_edge": "medseg.annotate.live_wire",
    "split_object": "medseg.instances.edits",
    "split_object_at": "medseg.instances.edits",
    "train": "medseg.training.train_model",
    "write_dicom_report": "medseg.export.dicom_report",
    "write_dicom_rtstruct": "medseg.export.dicom_rtstruct",
    "write_dicom_seg": "medseg.export.dicom_seg",
    "write_labels": "medseg.io.formats",
    "write_regions_csv": "medseg.export.tables",
    "write_result": "medseg.export.write",
    "write_stl": "medseg.export.meshes",
    "write_volume": "medseg.io.formats",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
