"""STMC's networks in PyTorch, functions of our weights by name, written from their description."""

from tests.support.pytorch import torch

F = torch.nn.functional
POOLED = "M"
TRUNK = ["64", POOLED, "128", POOLED, "256", "256", POOLED, "512", "512", POOLED, "512", "512", POOLED]
EARLY, LATE = 4, 7  # convolutions after which a map is read


def conv(parts, x, padding=0):
    """A convolution in space, or in time."""
    weight = parts["kernel"]
    axes = (*range(weight.ndim - 1, weight.ndim - 3, -1), *range(weight.ndim - 2))
    function = F.conv2d if weight.ndim == 4 else F.conv1d
    return function(x, weight.permute(*axes), parts["bias"], padding=padding)


def linear(parts, x):
    return x @ parts["kernel"] + parts["bias"]


def convs_of(blocks):
    return [conv for block in blocks.values() for conv in block["convs"].values()]


def net(blocks, x, plan):
    """Convolutions of kernel 3 with ReLU, pools according to the plan, and the mean over space."""
    weights = iter(convs_of(blocks))
    for step in plan:
        x = F.max_pool2d(x, 2) if step == POOLED else F.relu(conv(next(weights), x, 1))
    return x.mean((2, 3))


def trunk(parts, x):
    """VGG-11's maps after the fourth and the seventh convolution, and the last one."""
    weights, maps = iter(convs_of(parts["blocks"])), []
    for step in TRUNK:
        if step == POOLED:
            x = F.max_pool2d(x, 2)
        else:
            x = F.relu(conv(next(weights), x, 1))
            maps.append(x)
    return maps[EARLY - 1], maps[LATE - 1], x


def points_of(parts, late):
    """Seven points (x, y) in [0, 1], by two transposed convolutions and a spatial softmax."""
    for name in ("up1", "up2"):
        weight = parts[name]["kernel"].permute(2, 3, 0, 1)
        late = F.relu(F.conv_transpose2d(late, weight, parts[name]["bias"], stride=2, padding=1))
    heat = torch.einsum("nihw,io->nohw", late, parts["heat"]["kernel"])
    frames, points, height, width = heat.shape
    weight = heat.reshape(frames, points, -1).softmax(-1).reshape(heat.shape)
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    return torch.stack([(weight.sum(2) * x).sum(-1), (weight.sum(3) * y).sum(-1)], -1)


def crop(image, point, side):
    """The square around a point of each frame, moved inside."""
    squares = []
    for one, (x, y) in zip(image, point.tolist()):
        corner = []
        for size, place in zip(one.shape[1:], (y, x)):
            corner.append(min(max(round(place * size - 0.5) - side // 2, 0), size - side))
        squares.append(one[:, corner[0] : corner[0] + side, corner[1] : corner[1] + side])
    return torch.stack(squares)


def frame_parts(video, x, hand_side, face_side):
    """The four parts of each frame, and the points."""
    early, late, last = trunk(video["cnn"], x)
    parts = video["spatial"]
    points = points_of(parts["points"], late)
    fixed = points.detach()
    full = F.relu(conv(parts["full"]["convs"][0], last, 1)).mean((2, 3))
    plan = ["256", POOLED, "256", "256", POOLED, "256"]
    hands = [net(parts["hand"], crop(early, fixed[:, hand], hand_side), plan) for hand in (5, 6)]
    face = net(parts["face"], crop(early, fixed[:, 0], face_side), ["256", "256", POOLED, "256", "256"])
    pose = fixed.flatten(1)
    for layer in parts["pose"].values():
        pose = F.relu(linear(layer, pose))
    return [full, torch.cat(hands, -1), face, pose], points


def temporal(parts, joint, cues):
    """A block over time of `[B, C, T]`."""
    cues = [F.relu(conv(parts["intra"][number], cue)) for number, cue in enumerate(cues)]
    inter = F.relu(conv(parts["inter"], torch.cat(cues, 1)))
    joint = torch.cat([F.relu(conv(parts["joint"], joint)), inter], 1)
    return F.max_pool1d(joint, 2), [F.max_pool1d(cue, 2) for cue in cues]
