"""Builders of VoxCeleb: dense frames of VoxCeleb1 and videos of VoxCeleb2."""

from facecycle_jax.data.prepare.builders.tracks import TrackBuilder
from facecycle_jax.data.prepare.encoding import Source, image_sources, video_sources


class FacecycleVoxceleb1(TrackBuilder):
    """VoxCeleb1's dense frames, `<identity>/1.6/<youtube id>/<track>/*.jpg`."""

    name = "facecycle_voxceleb1"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir holds <identity>/1.6/<youtube id>/<track>/*.jpg, for example
    id10001/1.6/1zcIwhmdeo4/1/0000001.jpg or
    A.J._Buckley/1.6/1zcIwhmdeo4/1/0000001.jpg.
    """

    def _sources(self, root: str) -> list[Source]:
        """Lists the folders of frames."""
        return image_sources(
            root,
            pattern=r"[^/]+/1\.6/[^/]+/[^/]+",
            layout="<identity>/1.6/<youtube id>/<track>/*.jpg",
        )


class FacecycleVoxceleb2(TrackBuilder):
    """VoxCeleb2's face tracks, `<identity>/<youtube id>/*.mp4`."""

    name = "facecycle_voxceleb2"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    manual_dir is the folder `mp4` of dev or test, <identity>/<youtube id>/*.mp4, e.g.
    id00012/21Uxsk56VDQ/00001.mp4.
    """

    def _sources(self, root: str) -> list[Source]:
        """Lists the videos."""
        return video_sources(root)
