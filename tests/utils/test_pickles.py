"""Tests that published pickles of every kind are read exactly, and that no file executes code."""

import builtins
import collections
import functools
import io
import itertools
import os
import pickle
import pickletools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from jax._src.array import _reconstruct_array

from training.pretrained import (
    ACTORS,
    BaseShape,
    base_shape,
    check_base,
    load_published,
    published_file,
)
from utils.errors import UserError
from utils.pickles import safe_unpickle

SHIPPED = Path(__file__).resolve().parents[1] / "published"
KINDS = {
    "numpy1": b"numpy.core.multiarray",
    "numpy2": b"numpy._core.multiarray",
    "jax": b"jax._src.array",
}


def numbers(*shape):
    count = int(np.prod(shape))
    return ((np.arange(count) - count // 2) / 64).astype(np.float32).reshape(shape)


def base(inputs=5, hidden=(8, 8), out=2, layer_norm=True):
    widths = (inputs, *hidden, out)
    tree = {
        f"Dense_{i}": {"kernel": numbers(n, m), "bias": numbers(m)}
        for i, (n, m) in enumerate(itertools.pairwise(widths))
    }
    norms = {
        f"LayerNorm_{i}": {"scale": 1 + numbers(m), "bias": numbers(m)}
        for i, m in enumerate(hidden)
    }
    return tree | norms if layer_norm else tree


def checkpoint(**actors):
    return {
        "agent": {
            "network": {
                "params": {name: {"mlp": tree} for name, tree in actors.items()}
            }
        }
    }


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def same(one, other):
    assert set(one) == set(other)
    for layer in one:
        assert set(one[layer]) == set(other[layer])
        for name, leaf in one[layer].items():
            assert type(leaf) is np.ndarray and leaf.dtype == np.float32
            np.testing.assert_array_equal(leaf, other[layer][name])


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_files_are_read_exactly(kind):
    path = SHIPPED / kind / "params_300000.pkl"
    content = path.read_bytes()
    assert [name for name, named in KINDS.items() if named in content][-1] == kind
    assert path.stat().st_size < 4096
    same(load_published(path), base())
    agent = safe_unpickle(path)["agent"]
    assert agent["rng"].dtype == np.uint32 and agent["rng"].tolist() == [0, 7]
    assert agent["network"]["step"] == 300001 and agent["norm"] == 0.5
    assert agent["network"]["opt_state"] == {"0": {"count": 300000}, "1": {}}
    assert agent["network"]["params"]["modules_critic"]["mlp"]["Dense_0"][
        "kernel"
    ].shape == (
        2,
        4,
        4,
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(protocol, tmp_path):
    same(
        load_published(
            write(tmp_path / "a.pkl", checkpoint(modules_actor=base()), protocol)
        ),
        base(),
    )
    as_jax = {
        layer: {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
        for layer, leaves in base().items()
    }
    same(
        load_published(
            write(tmp_path / "b.pkl", checkpoint(modules_actor=as_jax), protocol)
        ),
        base(),
    )


# These protocols write names as lines of text.
@pytest.mark.parametrize("protocol", range(3))
def test_the_names_of_numpy_1_are_read_in_old_protocols(protocol, tmp_path):
    content = pickle.dumps(checkpoint(modules_actor=base()), protocol)
    assert content.count(b"numpy._core") > 0
    path = tmp_path / "a.pkl"
    path.write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    same(load_published(path), base())


@pytest.mark.parametrize("present", range(1, len(ACTORS) + 1))
def test_the_first_actor_present_is_used(present, tmp_path):
    """The file has the last `present` names; the first of them in the published order is used."""
    assert ACTORS == (
        "modules_actor_slow",
        "modules_actor_bc_flow",
        "modules_actor_flow",
        "modules_actor",
    )
    wrong = {
        name: base(layer_norm=False)
        for name in reversed(ACTORS[-present + 1 :] if present > 1 else ())
    }
    path = write(
        tmp_path / "a.pkl",
        checkpoint(
            modules_critic=base(hidden=(3,)), **wrong, **{ACTORS[-present]: base()}
        ),
    )
    same(load_published(path), base())


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_every_layout_are_read(protocol, tmp_path):
    arrays = {
        "fortran": np.asfortranarray(numbers(3, 4)),
        "strided": numbers(6, 4)[::2, ::-1],
        "big endian": numbers(5).astype(">f8"),
        "half": numbers(4).astype(np.float16),
        "flags": np.array([[True, False]]),
        "integers": np.array([-1, 1 << 40]),
        "no axis": np.array(3, np.uint8),
        "scalar": np.float32(0.25),
        "empty": np.zeros((0, 3), np.float32),
    }
    read = safe_unpickle(write(tmp_path / "a.pkl", arrays, protocol))
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype.type is array.dtype.type
        assert type(read[name]) is type(array)


@pytest.mark.parametrize("protocol", [2, 4])
def test_builtin_containers_are_read(protocol, tmp_path):
    shared = [1.5, None, True]
    tree = {
        ("cube", "TRQAM"): [shared, shared],
        2.5: {True: [], -3: ()},
        "t": (b"\xff", "é", 1 << 90, float("inf")),
    }
    assert safe_unpickle(write(tmp_path / "a.pkl", tree, protocol)) == tree
    dicts = [collections.OrderedDict(a=1), FrozenDict(a={"b": 2})]
    read = safe_unpickle(write(tmp_path / "b.pkl", dicts, protocol))
    assert read == [{"a": 1}, {"a": {"b": 2}}] and [type(one) for one in read] == [
        dict,
        dict,
    ]


def test_a_folder_means_its_newest_file(tmp_path):
    assert (
        published_file(tmp_path) is None
        and published_file(tmp_path / "params_1.pkl") is None
    )
    for step in (9, 100, 20):
        (tmp_path / f"params_{step}.pkl").touch()
    (tmp_path / "params_best.pkl").touch()
    assert published_file(tmp_path) == tmp_path / "params_100.pkl"
    assert published_file(tmp_path / "params_9.pkl") == tmp_path / "params_9.pkl"


# ---------------------------------------------------------------- what is refused


class Call:
    """An object whose pickle calls `function`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def jax_array(function, *args):
    return Call(
        _reconstruct_array, function, args, (1, (), np.dtype("f4"), False, b"1234"), {}
    )


# Each of these creates the file `made` if it is executed.
LIVE = {
    "system": lambda made: pickle.dumps(Call(os.system, f"touch {made}")),
    "system in a state": lambda made: pickle.dumps(
        {"agent": {"network": Call(os.system, f"touch {made}")}}, 2
    ),
    "system through INST": lambda made: f"(S'touch {made}'\nios\nsystem\n.".encode(),
    "system through OBJ": lambda made: f"(cos\nsystem\nS'touch {made}'\no.".encode(),
    "eval": lambda made: pickle.dumps(Call(builtins.eval, f"open({str(made)!r}, 'w')")),
    "exec": lambda made: pickle.dumps(
        Call(builtins.exec, f"open({str(made)!r}, 'w')"), 0
    ),
    "open": lambda made: pickle.dumps(Call(open, str(made), "w")),
    "a method by its dotted name": lambda made: pickle.dumps(Call(Path.touch, made)),
    "NumPy's memory map": lambda made: pickle.dumps(
        Call(np.memmap, str(made), "u1", "w+", 0, 1)
    ),
    "a method of an admitted class": lambda made: (
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93"
        + pickle.dumps((numbers(2), str(made)))[11:-1]
        + b"R."
    ),
    "inside a JAX array": lambda made: pickle.dumps(jax_array(open, str(made), "w")),
    "inside an array of objects": lambda made: pickle.dumps(
        np.array([Call(open, str(made), "w")], object)
    ),
    "inside an array of objects in JAX's": lambda made: pickle.dumps(
        Call(
            _reconstruct_array,
            *np.array([Call(open, str(made), "w")], object).__reduce__(),
            {},
        )
    ),
}


def test_an_array_larger_than_the_file_is_refused(tmp_path):
    """np.ndarray itself would make 8 GB of 8 bytes, or an array of objects."""
    for arguments in (((10**9,), "f8", b"8 bytes.", 0, (0,)), ((3,), "O")):
        content = pickle.dumps(Call(np.ndarray, *arguments))
        (tmp_path / "a.pkl").write_bytes(content)
        with pytest.raises(UserError, match="not a pickle file, or a damaged one"):
            safe_unpickle(tmp_path / "a.pkl")


# An attack that was executed leaves an open file.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("attack", LIVE)
def test_a_malicious_file_executes_nothing(attack, tmp_path):
    made, path = tmp_path / "made", tmp_path / "params_1.pkl"
    path.write_bytes(LIVE[attack](made))
    try:  # pickle itself executes the attack
        pickle.loads(path.read_bytes())
    except (ValueError, TypeError, AttributeError):
        pass  # the attack was executed before the error
    assert made.exists()
    made.unlink()
    with pytest.raises(UserError) as caught:
        load_published(path, f"--pretrained_actor_path={path}")
    message = str(caught.value)
    assert message.startswith(
        f"--pretrained_actor_path={path}: refused, because the file "
    )
    assert message.endswith(
        "only containers and arrays of numbers are read, and nothing in it was executed"
    )
    assert "\n" not in message
    assert not made.exists()


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
EMPTY_ARRAY = RECONSTRUCT + b"(" + name("numpy", "ndarray") + b"(I0\ntVb\ntR"
JAX = name("jax._src.array", "_reconstruct_array")
DTYPE = name("numpy", "dtype")
REFUSED = {
    "an unknown class": (name("os", "system") + b".", "asks for 'os.system'"),
    "getattr": (name("builtins", "getattr") + b".", "asks for 'builtins.getattr'"),
    "an attribute of a container": (b"\x80\x04\x8c\x08builtins\x8c\x0ddict.fromkeys\x93.", "asks for 'builtins.dict.fromkeys'"),
    "a name of two lines": (b"\x80\x04\x8c\x02os\x8c\x05a\nb\x1bc\x93.", r"asks for 'os.a\nb\x1bc'"),
    "a list by its name": (name("builtins", "list") + b"((ltR.", "asks for 'builtins.list'"),
    "a set by its name": (pickle.dumps({1}, 2), "asks for '__builtin__.set'"),
    "objects": (DTYPE + b"(VO8\nI00\nI01\ntR.", "dtype 'O8'"),
    "no type": (DTYPE + b"(NtR.", "dtype NoneType"),
    "a dtype of 2^60 numbers": (
        DTYPE + b"(I1\n" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"tR.", "dtype tuple",
    ),
    "an admitted callable in JAX's place": (JAX + b"(" + name("collections", "OrderedDict") + b"(t(t}tR.", "holds an array of another class"),
    "JAX in JAX": (JAX + b"(" + JAX + b"(t(t}tR.", "holds an array of another class"),
    "a dtype in JAX's place": (
        JAX + b"(" + DTYPE + b"(Vf4\nt(I3\nV<\nNNNI-1\nI-1\nI63\nt}tR.", "holds an array of another class",
    ),
    "a dtype larger than its bytes": (
        DTYPE + b"(Vf4\ntR(I3\nV<\n(" + DTYPE + b"(Vf4\ntR(I100000000\nttNNI400000000\nI1\nI0\ntb.", "a dtype of its own",
    ),
    "a dtype with a part outside": (
        DTYPE + b"(Vf4\ntR(I3\nV<\nN(Va\nt}Va\n(" + DTYPE + b"(Vf4\ntRI1073741824\ntsI8\nI1\nI0\ntb.", "a dtype of its own",
    ),
    "numbers as objects": (DTYPE + b"(Vf8\ntR(I3\nV<\nNNNI-1\nI-1\nI63\ntb.", "a dtype of its own"),
    "the state of a function": (DTYPE + b"}Va\nI1\nsb.", "sets the state of a function"),
    "an array of another class": (RECONSTRUCT + b"(" + name("collections", "OrderedDict") + b"(I0\ntVb\ntR.", "holds an array of another class"),
    "a list for bytes": (
        EMPTY_ARRAY + b"(I1\n(I1\nt" + DTYPE + b"(Vf4\ntRI00\n(lNatb.", None,
    ),
    "a call of text": (b"Va\n(tR.", None),
    "an array as a key": (b"}" + EMPTY_ARRAY + b"Ns.", None),
    "a registered extension": (b"\x82\x01.", None),
    "a persistent object": (b"Px\n.", None),
    "an array larger than its bytes": (
        EMPTY_ARRAY + b"(I1\n(I9999999\nt" + DTYPE + b"(Vf4\ntRI00\n"
        + name("_codecs", "encode") + b"(Vabcd\nVlatin1\ntRtb.", None,
    ),
    "bytes without end": (b"\x96" + (1 << 62).to_bytes(8, "little"), None),
    "garbage": (bytes(range(256)), None),
    "an archive": (b"PK\x03\x04", None),
    "nothing": (b"", None),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_files_with_other_content_are_refused_in_one_line(what, tmp_path):
    content, reason = REFUSED[what]
    path = tmp_path / "params_1.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        safe_unpickle(path)
    message = str(caught.value)
    if reason is None:
        assert (
            message
            == f"{path}: not a pickle file, or a damaged one; nothing in it was executed"
        )
    else:
        assert (
            message.startswith(f"{path}: refused, because the file ")
            and reason in message
        )
        assert message.isprintable()


def test_no_file_changes_the_reader_for_the_next(tmp_path):
    """The byte order that a file sets is that of its own dtype, not of NumPy's float32."""
    swapped = DTYPE + b"(Vf4\ntR(I3\nV>\nNNNI-1\nI-1\nI0\ntb."
    (tmp_path / "a.pkl").write_bytes(swapped)
    assert safe_unpickle(tmp_path / "a.pkl") == np.dtype(">f4")
    assert np.dtype("f4") == np.float32 and np.float32(1).tobytes() == b"\0\0\x80?"


def test_other_kinds_of_numbers_and_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="asks for 'ml_dtypes.bfloat16'"):
        safe_unpickle(write(tmp_path / "a.pkl", jnp.ones(2, jnp.bfloat16)))
    with pytest.raises(UserError, match="dtype 'U1'"):
        safe_unpickle(write(tmp_path / "b.pkl", np.array(["a"])))
    with pytest.raises(UserError, match="asks for 'functools.partial'"):
        safe_unpickle(write(tmp_path / "c.pkl", functools.partial(print)))
    with pytest.raises(
        UserError,
        match=r"missing.pkl: the file cannot be read \(No such file or directory\)",
    ):
        safe_unpickle(tmp_path / "missing.pkl")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.pkl")
    with pytest.raises(UserError, match=r"a\.pkl: it is not a file"):
        safe_unpickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_reported_in_one_line(kind, tmp_path):
    content, path = (
        (SHIPPED / kind / "params_300000.pkl").read_bytes(),
        tmp_path / "cut.pkl",
    )
    for length in {*range(0, len(content), 7), len(content) - 1}:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="not a pickle file, or a damaged one"):
            load_published(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_byte_is_read_or_refused(kind, tmp_path):
    """After each flip, the file gives arrays or a one-line error."""
    content, path = (
        (SHIPPED / kind / "params_300000.pkl").read_bytes(),
        tmp_path / "flipped.pkl",
    )
    refused = 0
    for place in range(0, len(content), 4):
        flip = (0x01, 0x80, 0xFF)[place % 3]
        path.write_bytes(
            content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
        )
        try:
            load_published(path)
        except UserError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 400 + len(str(path))
    assert refused > 50


def test_the_attack_through_a_method_is_a_dotted_name():
    """This checks the attack above: it names an attribute of an admitted class in one string."""
    content = LIVE["a method of an admitted class"](Path("x"))
    assert "ndarray.tofile" in [
        argument for _, argument, _ in pickletools.genops(io.BytesIO(content))
    ]


# ---------------------------------------------------------------- what a base must have


NOT_A_BASE = {
    "a list": ([1], "the file has no agent; it has nothing"),
    "weights without agent": ({"network": {}}, "the file has no agent; it has 'network'"),
    "no params": ({"agent": {"network": {"step": 1}}}, "network has no params; it has 'step'"),
    "no actor": (checkpoint(modules_critic=base()), "params has no modules_actor_slow or modules_actor_bc_flow"),
    "no mlp": ({"agent": {"network": {"params": {"modules_actor": {"net": 1}}}}}, "modules_actor has no mlp; it has 'net'"),
    "an ensemble": (checkpoint(modules_actor={"Dense_0": {"kernel": numbers(2, 5, 2), "bias": numbers(2, 2)}}), "not a plain"),
    "a gap": (checkpoint(modules_actor={"Dense_1": {"kernel": numbers(5, 2), "bias": numbers(2)}}), "not a plain"),
    "half its norms": (
        checkpoint(modules_actor={k: v for k, v in base().items() if k != "LayerNorm_1"}), "LayerNorm after each layer or none",
    ),
    "widths that do not fit": (
        checkpoint(modules_actor=base() | {"Dense_1": {"kernel": numbers(7, 8), "bias": numbers(8)}}), "not a plain",
    ),
    "nothing in it": (checkpoint(modules_actor={}), "not a plain"),
    "text": (checkpoint(modules_actor={"Dense_0": {"kernel": "a", "bias": "b"}}), "not a plain"),
    "NaN": (
        checkpoint(modules_actor=base() | {"LayerNorm_1": {"scale": numbers(8), "bias": np.full(8, np.nan)}}),
        "LayerNorm_1/bias holds NaN or infinite values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_A_BASE)
def test_a_file_without_a_base_is_refused_with_the_reason(what, tmp_path):
    content, reason = NOT_A_BASE[what]
    path = write(tmp_path / "params_1.pkl", content)
    with pytest.raises(UserError) as caught:
        load_published(path)
    assert str(caught.value).startswith(f"{path}: ") and reason in str(caught.value)


def test_the_shape_of_a_base_is_found():
    assert base_shape(base(), "") == BaseShape(2, (8, 8), True, 2)
    assert base_shape(base(29, (7,), 5, layer_norm=False), "") == BaseShape(
        23, (7,), False, 5
    )
    assert base_shape(base(4, (), 1, layer_norm=False), "") == BaseShape(
        2, (), False, 1
    )


def test_a_mismatch_names_both_sides():
    here = base(2 + 5 + 1, (16,), 5, layer_norm=False)
    check_base(here, base(8, (16,), 5, layer_norm=False), "--x")
    differences = {
        "layer norm on there and off here (--agent.actor_layer_norm)": base(
            8, (16,), 5
        ),
        "actor_hidden_dims (8, 8) there and (16,) here (--agent.actor_hidden_dims)": base(
            8, (8, 8), 5, layer_norm=False
        ),
        "observations O = 4 there and 2 here (--env_name)": base(
            10, (16,), 5, layer_norm=False
        ),
        "actions D = 25 there and 5 here (--horizon_length, --agent.action_chunking)": base(
            28, (16,), 25, layer_norm=False
        ),
    }
    for words, there in differences.items():
        with pytest.raises(UserError) as caught:
            check_base(there, here, "--pretrained_actor_path=a.pkl")
        assert str(caught.value) == f"--pretrained_actor_path=a.pkl: {words}"
    with pytest.raises(UserError) as caught:
        check_base(base(30, (8,), 25), here, "a.pkl")
    both = (
        "observations O = 4 there and 2 here (--env_name); actor_hidden_dims (8,) there and"
        " (16,) here"
    )
    assert str(caught.value).startswith(f"a.pkl: {both}")
    assert str(caught.value).count(" there and ") == 4
