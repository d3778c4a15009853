"""The communicator of the simulated devices, on two ranks: rank r brings 0, 1, 2, 3 plus 10 r."""

from portable.testing.process import run_processes

CASE = "tests.backends.sim.case_collective:"


def test_every_collective_gives_the_right_numbers(library, tmp_path):
    zero, one = run_processes(CASE + "every_collective", 2, tmp_path)
    for found in (zero, one):
        assert found["all_reduce"] == [10, 12, 14, 16]
        assert found["all_reduce_AVG"] == [5, 6, 7, 8]
        assert found["all_reduce_MAX"] == [10, 11, 12, 13]
        assert found["all_reduce_MIN"] == [0, 1, 2, 3]
        assert found["all_reduce_PRODUCT"] == [0, 11, 24, 39]
        assert found["all_reduce_PREMUL_SUM"] == [5, 6, 7, 8]
        assert found["all_reduce_AVG_int"] == [5, 6, 7, 8]
        assert found["all_reduce_complex"] == 104
        assert found["all_gather"] == [[0, 1, 2, 3], [10, 11, 12, 13]]
        assert found["all_gather_into_tensor"] == [0, 1, 2, 3, 10, 11, 12, 13]
        assert found["all_gather_fp8"] == [0, 1, 2, 3, 10, 11, 12, 13]
        assert found["input_kept"]
        assert found["channels_last"] == [10, 12, 14, 16]
        assert found["broadcast"] == [10, 11, 12, 13]
        assert found["objects"] == [{"rank": 0}, {"rank": 1}]
        assert found["host"] == [2, 2]
    assert zero["reduce_scatter_tensor_SUM"] == zero["reduce_scatter"] == [10, 12, 14, 16]
    assert one["reduce_scatter_tensor_SUM"] == one["reduce_scatter"] == [18, 20, 22, 24]
    assert one["reduce_scatter_tensor_AVG"] == [9, 10, 11, 12]
    assert (zero["all_to_all_single"], one["all_to_all_single"]) == ([0, 1, 10, 11], [2, 3, 12, 13])
    assert zero["all_to_all_uneven"] == [[0, 1, 2], [10, 11, 12]]
    assert one["all_to_all_uneven"] == [[3, 4, 5], [6, 7, 8], [13, 14, 15], [16, 17, 18]]
    assert (zero["all_to_all"], one["all_to_all"]) == ([[0], [10]], [[0, 1], [10, 11]])
    assert (zero["reduce"], one["reduce"]) == ([10, 12, 14, 16], [10, 11, 12, 13])
    assert zero["gather"] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert (zero["scatter"], one["scatter"]) == ([0, 1, 2, 3], [50, 51, 52, 53])
    assert (zero["send_recv"], one["send_recv"]) == ([10, 11, 12, 13], [0, 1, 2, 3])
    assert (zero["batch_isend_irecv"], one["batch_isend_irecv"]) == ([10, 11, 12, 13], [0, 1, 2, 3])


def test_coalesced_collectives_all_run_and_so_do_later_ones(library, tmp_path):
    for rank, found in enumerate(run_processes(CASE + "coalescing", 2, tmp_path)):
        assert found["coalesced"] == [[10, 12, 14, 16]] * 2
        assert found["parts"] == [[10, 12, 14, 16] if rank == 0 else [18, 20, 22, 24]] * 2
        assert found["after"] == [10, 12, 14, 16]


def test_what_the_chip_lacks_is_refused_and_later_collectives_still_run(library, tmp_path):
    for rank, found in enumerate(run_processes(CASE + "refusals", 2, tmp_path)):
        messages = found["messages"]
        assert "contiguous" in messages.pop("strides")
        assert set(messages) == {"avg", "gather", "dtype", "coalescing"}
        assert all("chip_x" in message for message in messages.values())
        assert found["untouched"] == [10 * rank + i for i in range(4)]
        assert found["after"] == [10, 12, 14, 16]


def test_asynchronous_work_orders_who_waits_for_it(library, tmp_path):
    for found in run_processes(CASE + "order", 2, tmp_path):
        assert "aten::add on" in found["missing"]
        assert "all_reduce" in found["missing"]
        assert "communicator's stream" in found["missing"]
        assert found["waited"] == [10, 12, 14, 16]
        assert found["synchronized"] == [5, 6, 7, 8]
        assert found["future"] == found["same"] == [10, 12, 14, 16]


def test_the_communicator_works_alone_and_in_new_groups(library, tmp_path):
    for found in run_processes(CASE + "alone", 2, tmp_path):
        assert found["sum"] == found["again"] == [10, 12, 14, 16]
        assert "cpu" in found["message"]
        assert found["objects"] == [1]


def test_a_late_rank_is_an_error_that_says_what_and_where(library, tmp_path):
    message, _ = run_processes(CASE + "late", 2, tmp_path)
    assert message.startswith("all_reduce on rank 0 of 2 in group")
    assert "failed: " in message
    assert "imed out" in message
