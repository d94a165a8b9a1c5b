"""The network of docs/extending.md, as it is printed there, learns."""

import re

import pytest
import torch
import yaml

from landmarking.config import PROJECT
from landmarking.models.build import build_network

BLOCK = re.compile(r"```(python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def spec(tmp_path, monkeypatch):
    text = (PROJECT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = {name: body for _, name, body in BLOCK.findall(text)}
    code = blocks["landmarking/models/dilated.py"]
    module = "landmarking.models.dilated"
    values = yaml.safe_load(blocks["conf/model/dilated.yaml"])
    assert values["_target_"].rpartition(".")[0] == module
    (tmp_path / "printed_network.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    return values | {"_target_": values["_target_"].replace(module, "printed_network")}


def test_the_printed_network_learns_where_a_blob_is(spec):
    torch.manual_seed(0)
    net = build_network(spec, image_size=(31, 45), mean_px=[[20.0, 12.0]])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    y, x = torch.meshgrid(torch.arange(31.0), torch.arange(45.0), indexing="ij")
    losses = []
    for _ in range(25):
        truth = 6.0 + torch.rand(8, 1, 2) * torch.tensor([32.0, 18.0])
        away = (x - truth[..., :1]) ** 2 + (y - truth[..., 1:]) ** 2
        points, penalty = net(3.0 * torch.exp(-away / 8.0)[:, None], with_penalty=True)
        losses.append((points - truth).norm(dim=-1).mean())
        optimizer.zero_grad()
        (losses[-1] + penalty).backward()
        optimizer.step()
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
