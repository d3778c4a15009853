import torch

from portable.model.moe.balance import count_choices, moved_bias, sequence_balance_loss, z_loss

ROWS, TOKENS, EXPERTS, TOP_K = 3, 8, 5, 2


def scores(seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS * TOKENS, EXPERTS, generator=stream).softmax(-1).requires_grad_()


def alone(counts):
    return counts


def test_loss_equals_the_papers_sums():
    scores_NE = scores()
    expected = 0.0
    for row in scores_NE.detach().view(ROWS, TOKENS, EXPERTS):
        for expert in range(EXPERTS):
            hits = sum(expert in token.topk(TOP_K).indices for token in row)
            share = EXPERTS / (TOP_K * TOKENS) * hits
            expected += TOKENS * share * row[:, expert].mean().item()
    loss = sequence_balance_loss(scores_NE, TOP_K, ROWS, alone)
    assert abs(loss.item() - expected) < 1e-4


def test_even_load_gives_one_for_every_token():
    # Every token prefers another pair, in turn, and scores are shared out evenly.
    even = torch.full((4, 4), 0.25) + 1e-6 * torch.eye(4) + 1e-6 * torch.eye(4).roll(1, 0)
    assert abs(sequence_balance_loss(even, 2, 1, alone).item() - 4) < 1e-4


def test_it_does_not_depend_on_how_rows_are_batched():
    scores_NE = scores()
    whole = sequence_balance_loss(scores_NE, TOP_K, ROWS, alone)
    apart = sum(sequence_balance_loss(row, TOP_K, 1, alone) for row in scores_NE.split(TOKENS))
    torch.testing.assert_close(whole, apart, rtol=1e-6, atol=0)


def test_parts_of_rows_need_only_counts_of_each_other():
    scores_NE = scores()
    whole = sequence_balance_loss(scores_NE, TOP_K, ROWS, alone)
    (expected,) = torch.autograd.grad(whole, scores_NE)
    parts_BTE = scores_NE.view(ROWS, TOKENS, EXPERTS).split([3, 5], dim=1)
    counts = [count_choices(part.topk(TOP_K).indices.flatten(1), EXPERTS) for part in parts_BTE]
    losses = [
        sequence_balance_loss(part.flatten(0, 1), TOP_K, ROWS, lambda own: sum(counts) + 0 * own)
        for part in parts_BTE
    ]
    torch.testing.assert_close(sum(losses), whole, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(sum(losses), scores_NE)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)


def test_z_loss_adds_squares_of_the_normaliser():
    logits = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    expected = torch.tensor(2.0).log() ** 2 + torch.tensor([1.0, -1.0]).exp().sum().log() ** 2
    torch.testing.assert_close(z_loss(logits), expected)


def test_counts_are_of_the_last_dim():
    assert count_choices(torch.tensor([[0, 2, 2], [1, 1, 1]]), 4).tolist() == [[1, 0, 2, 0], [0, 3, 0, 0]]
    assert count_choices(torch.empty(0, dtype=torch.int64), 3).tolist() == [0, 0, 0]


def test_bias_moves_towards_the_mean_load():
    bias = moved_bias(torch.tensor([0.5, 0.0, 0.0]), torch.tensor([0.0, 2.0, 4.0]), 0.1)
    torch.testing.assert_close(bias, torch.tensor([0.6, 0.0, -0.1]))
