"""Download of released files: resumable, checked by size and MD5, from several mirrors."""

from spice_data.download._fetch import check_file, download, fetch, file_md5
from spice_data.download._releases import Release, release, releases
from spice_data.download.transfer import RetryPolicy

__all__ = ["Release", "RetryPolicy", "check_file", "download", "fetch", "file_md5", "release", "releases"]
