"""The names of what makes code depend on more than its arguments, or do more than return: tables for `impure`."""

from __future__ import annotations

import queue
from collections import Counter, OrderedDict, defaultdict, deque

__all__ = [
    "CHANGING",
    "CONTAINERS",
    "FILLING",
    "GIVING_BACK",
    "NOWS",
    "NOW_TAKERS",
    "OF_NAMED_PATHS",
    "OF_PATHS",
    "REASONS",
    "SETTING",
    "WRITES",
    "WRITING",
    "WRITING_OF_PATHS",
]

WRITES = "writes a file"
"""The reason of what is run for what it does."""

REASONS = {
    "reads a file": (
        "_io.open posix.open nt.open _io.open_code "
        "io.FileIO _io.FileIO "
        "numpy.load numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.memmap numpy.lib._npyio_impl.load "
        "pandas.read_csv pandas.read_table pandas.read_fwf pandas.read_json pandas.read_excel pandas.read_parquet "
        "pandas.read_pickle pandas.read_hdf pandas.read_feather pandas.read_orc pandas.read_sql pandas.read_sas "
        "pandas.read_stata pandas.read_xml pandas.read_html pandas.read_clipboard "
        "xarray.open_dataset xarray.open_dataarray xarray.open_mfdataset xarray.open_zarr xarray.open_datatree "
        "xarray.open_groups xarray.load_dataset xarray.load_dataarray xarray.load_datatree "
        "zarr.open zarr.open_array zarr.open_group zarr.load zarr.open_consolidated "
        "netCDF4.Dataset netCDF4.MFDataset h5py.File h5netcdf.File rasterio.open cfgrib.open_dataset "
        "fsspec.open fsspec.open_files fsspec.filesystem fsspec.open_local pyarrow.parquet.read_table "
        "pandas.HDFStore pandas.ExcelFile pandas.read_gbq pandas.read_spss pandas.read_sql_query pandas.read_sql_table "
        "pandas.read_iceberg numpy.fromregex numpy.DataSource numpy.lib.format.open_memmap "
        "dask.dataframe.read_parquet dask.dataframe.read_csv dask.dataframe.read_table dask.dataframe.read_fwf "
        "dask.dataframe.read_json dask.dataframe.read_orc dask.dataframe.read_hdf dask.dataframe.read_sql_table "
        "dask.dataframe.read_sql_query dask.dataframe.read_sql dask.read_parquet dask.read_json dask.read_orc "
        "dask.read_hdf dask.make_reader.<locals>.read dask.bag.read_text dask.bag.read_avro dask.read_text "
        "dask.read_avro dask.bytes.read_bytes dask.read_bytes dask.array.from_npy_stack dask.from_npy_stack "
        "dask.array.from_zarr dask.from_zarr "
        "polars.read_csv polars.read_parquet polars.read_json polars.read_ndjson polars.read_ipc polars.read_avro "
        "polars.read_ipc_stream polars.read_excel polars.read_ods polars.read_delta polars.read_database "
        "polars.read_database_uri polars.scan_csv polars.scan_parquet polars.scan_ndjson polars.scan_ipc "
        "polars.scan_delta polars.scan_iceberg polars.read_csv_batched "
        "geopandas.read_file geopandas.read_parquet geopandas.read_feather geopandas.read_postgis "
        "geopandas._read_file geopandas._read_parquet geopandas._read_feather geopandas._read_postgis "
        "pyogrio.read_dataframe fiona.open "
        "pyarrow.csv.read_csv pyarrow._csv.read_csv pyarrow.csv.open_csv pyarrow._csv.open_csv pyarrow.json.read_json "
        "pyarrow._json.read_json pyarrow.feather.read_feather pyarrow.feather.read_table pyarrow.orc.read_table "
        "pyarrow.parquet.ParquetFile pyarrow.parquet.core.ParquetFile pyarrow.parquet.ParquetDataset "
        "pyarrow.parquet.core.ParquetDataset pyarrow.parquet.read_schema pyarrow.parquet.core.read_schema "
        "pyarrow.parquet.read_metadata pyarrow.parquet.core.read_metadata pyarrow.parquet.read_pandas "
        "pyarrow.parquet.core.read_pandas pyarrow.parquet.core.read_table pyarrow.dataset.dataset "
        "pyarrow.memory_map pyarrow.lib.memory_map pyarrow.OSFile pyarrow.lib.OSFile "
        "gzip.open gzip.GzipFile bz2.open bz2.BZ2File lzma.open lzma.LZMAFile zipfile.ZipFile tarfile.open "
        "tarfile.TarFile codecs.open shelve.open dbm.open configparser.ConfigParser "
        "scipy.io.loadmat scipy.io.matlab._mio.loadmat scipy.io.netcdf_file scipy.io._netcdf.netcdf_file "
        "scipy.io.mmread scipy.io.wavfile.read scipy.io.readsav joblib.load PIL.Image.open imageio.* skimage.io.* "
        "cv2.imread soundfile.read nibabel.load pydicom.dcmread obspy.read iris.load iris.load_cube iris.load_cubes "
        "pygrib.open rioxarray.open_rasterio tifffile.imread tifffile.TiffFile tables.open_file torch.load "
        "fsspec.get_mapper zarr.open_like zarr.storage.LocalStore zarr.storage._local.LocalStore "
        "zarr.storage.FsspecStore zarr.storage._fsspec.FsspecStore zarr.storage.ZipStore zarr.storage._zip.ZipStore "
        "zarr.Group.open zarr.core.group.Group.open zarr.Array.open zarr.core.array.Array.open "
        "xarray.backends.ZarrStore xarray.backends.zarr.ZarrStore xarray.backends.NetCDF4DataStore "
        "xarray.backends.netCDF4_.NetCDF4DataStore xarray.backends.H5NetCDFStore "
        "xarray.backends.h5netcdf_.H5NetCDFStore xarray.backends.ScipyDataStore "
        "sqlite3.connect _sqlite3.connect tempfile.mkstemp tempfile.mkdtemp tempfile.NamedTemporaryFile"
    ),
    "looks at the file system": (
        "posix.listdir posix.scandir posix.stat posix.lstat posix.getcwd posix.readlink posix.access "
        "nt.listdir nt.scandir nt.stat nt.lstat nt.getcwd "
        "os.walk os.fwalk glob.glob glob.iglob genericpath.exists genericpath.isfile genericpath.isdir "
        "genericpath.getmtime genericpath.getsize genericpath.getctime genericpath.getatime "
        "pathlib.Path.cwd pathlib.Path.home posixpath.expanduser ntpath.expanduser "
        "importlib.resources.* linecache.*"
    ),
    "reads the environment": (
        "os.getenv os.getenvb os._Environ posix.getpid posix.getppid posix.getlogin posix.uname posix.times "
        "posix.cpu_count os.cpu_count posix.getloadavg os.getlogin platform.node platform.uname platform.platform "
        "_socket.gethostname socket.getfqdn getpass.getuser _thread.get_ident "
        "_thread.get_native_id uuid.getnode psutil.* posix.getuid posix.sched_getaffinity locale.getlocale"
    ),
    "reads the clock": (
        "time.time time.time_ns time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns "
        "time.process_time time.process_time_ns time.thread_time time.localtime time.gmtime time.ctime "
        "time.thread_time_ns time.clock_gettime time.clock_gettime_ns resource.getrusage "
        "time.asctime time.strftime datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today "
        "datetime.date.today pandas.Timestamp.now pandas.Timestamp.utcnow pandas.Timestamp.today "
        "arrow.now arrow.utcnow arrow.api.now arrow.api.utcnow pendulum.now pendulum.today"
    ),
    "draws unseeded random numbers": (
        "uuid.uuid1 uuid.uuid4 uuid.uuid7 posix.urandom nt.urandom posix.getrandom random.SystemRandom secrets.*"
    ),
    "draws from the process's own random state": (
        "torch.rand torch.randn torch.randint torch.randperm torch.rand_like torch.randn_like torch.randint_like "
        "torch.normal torch.bernoulli torch.multinomial torch.poisson torch.seed torch.manual_seed torch.random.*"
    ),
    "runs or looks up code by name": (
        "builtins.eval builtins.exec builtins.compile builtins.globals builtins.__import__ "
        "importlib.import_module importlib.__import__ importlib.reload runpy.* "
        "importlib.util.* importlib.metadata.* pkgutil.* "
        "sys.modules sys._getframe inspect.currentframe inspect.stack inspect.getmembers gc.get_objects gc.get_referrers"
    ),
    "reads what says nothing of what code does": (
        "inspect.getsource inspect.getsourcelines inspect.getsourcefile inspect.getfile inspect.getdoc "
        "inspect.getcomments inspect.getmodule inspect.signature inspect.Signature inspect.get_annotations "
        "inspect.getfullargspec typing.get_type_hints pydoc.* ast.parse tokenize.*"
    ),
    "reads settings of the process": (
        "dask.config.get dask.config.config xarray.get_options xarray.core.options.get_options "
        "xarray.core.options.OPTIONS numpy.geterr numpy.geterrcall numpy.getbufsize numpy.get_printoptions "
        "pandas.get_option pandas.options pandas._config.config.get_option zarr.config matplotlib.rcParams "
        "decimal.getcontext _decimal.getcontext locale.* _locale.* sys.argv sys.stdin "
        "contextvars.copy_context _contextvars.copy_context threading.current_thread threading.active_count "
        "multiprocessing.current_process multiprocessing.cpu_count "
        "distributed.get_worker distributed.worker.get_worker distributed.get_client distributed.worker.get_client"
    ),
    "opens what is published under a name, which a function should be given": (
        "daskcache.open daskcache.lazy.open_entry"
    ),
    "asks the user": "builtins.input builtins.breakpoint",
    "talks to the network": (
        "requests.* httpx.* aiohttp.* urllib3.* urllib.request.* http.client.* socket.* _socket.* ftplib.* boto3.*"
    ),
    "runs another program": "subprocess.* posix.system posix.popen os.popen posix.fork",
    WRITES: (
        "numpy.save numpy.savez numpy.savez_compressed numpy.savetxt numpy.lib.format.write_array "
        "xarray.save_mfdataset zarr.save zarr.save_array zarr.save_group zarr.create_array zarr.create_group "
        "dask.array.to_zarr dask.array.to_hdf5 dask.array.to_npy_stack dask.array.store dask.array.core.to_zarr "
        "dask.array.core.to_hdf5 dask.array.core.to_npy_stack dask.array.core.store "
        "pandas.ExcelWriter pandas.to_pickle pyarrow.parquet.ParquetWriter pyarrow.parquet.core.ParquetWriter "
        "scipy.io.savemat scipy.io.matlab._mio.savemat scipy.io.mmwrite scipy.io.wavfile.write "
        "joblib.dump torch.save cv2.imwrite tifffile.imwrite soundfile.write iris.save "
        "posix.mkdir nt.mkdir os.makedirs posix.rename nt.rename posix.replace nt.replace os.renames posix.remove "
        "nt.remove posix.unlink nt.unlink posix.rmdir nt.rmdir os.removedirs posix.link posix.symlink posix.truncate "
        "posix.utime posix.chmod posix.mkfifo shutil.*"
    ),
}
"""Dotted names, by what is said of them; ``.*`` stands for all of a module."""

OF_PATHS = frozenset(["read_text", "read_bytes", "iterdir", "rglob"])
"""What a path is asked for."""

OF_NAMED_PATHS = frozenset(
    [
        "open",
        "exists",
        "is_file",
        "is_dir",
        "is_symlink",
        "stat",
        "lstat",
        "glob",
        "walk",
        "readlink",
        "samefile",
    ]
)
"""The same; others have methods of these names as well, so that somebody has to speak of paths."""

_NOW_TAKERS = (
    "numpy.datetime64 pandas.Timestamp pandas.to_datetime pandas.DatetimeIndex pandas.Period pandas.date_range "
    "pandas.bdate_range pandas.period_range"
)
NOW_TAKERS = frozenset(_NOW_TAKERS.split())
"""What takes these for times."""

NOWS = frozenset(["now", "today"])
"""Words for the time at which they are read."""

_WRITING = (
    "save savez savez_compressed savetxt savemat savefig imsave imwrite tofile dump write_text write_bytes mkdir "
    "symlink_to hardlink_to to_netcdf to_zarr to_csv to_json to_parquet to_pickle to_hdf to_hdf5 to_excel "
    "to_feather to_orc to_stata to_sql to_gbq to_file to_postgis to_raster to_npy_stack to_textfiles to_avro "
    "write_csv write_parquet write_ipc write_ndjson write_json write_avro write_excel write_database write_delta "
    "write_table write_to_dataset write_dataset write_feather sink_csv sink_parquet sink_ipc sink_ndjson"
)
WRITING = frozenset(_WRITING.split())
"""Methods and functions that write, of whatever."""

WRITING_OF_PATHS = frozenset(["touch", "unlink", "rmdir"])
"""The same, where somebody speaks of paths."""

CONTAINERS = frozenset(
    {list, dict, set, bytearray, deque, defaultdict, OrderedDict, Counter}
    | {queue.Queue, queue.LifoQueue, queue.PriorityQueue, queue.SimpleQueue}
)
"""What code may collect in."""

_CHANGING = (
    "append extend insert remove pop popitem clear add discard update sort reverse appendleft extendleft "
    "popleft put put_nowait fill subtract intersection_update difference_update symmetric_difference_update"
)
CHANGING = frozenset(_CHANGING.split())
"""The methods by which it does."""

_IN_PLACE = "iadd iand iconcat ifloordiv ilshift imatmul imod imul ior ipow irshift isub itruediv ixor"
GIVING_BACK = frozenset(_IN_PLACE.split())
"""Functions of `operator` that change what they are given first and give it back."""

_FILLING = "setattr delattr setitem delitem copyto putmask place at fill_diagonal put_along_axis heappush heapify insort"
FILLING = frozenset(_FILLING.split()) | GIVING_BACK
"""Functions that change what they are given first, such as ``np.add.at``."""

SETTING = frozenset(["__setitem__", "__delitem__", "__setattr__", "__delattr__"])
"""Methods that change what they are asked of and give nothing."""
