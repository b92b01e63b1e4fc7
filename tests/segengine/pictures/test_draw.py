import io

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries

from segengine.pictures import draw

RNG = np.random.default_rng(11)
COLORS = np.uint8([[10, 20, 30], [200, 0, 0], [0, 250, 5]])


def test_8_bit_colours_are_shown_as_they_are():
    pixels = RNG.integers(0, 256, (5, 6, 4)).astype(np.uint8)
    assert np.array_equal(draw.to_rgb(pixels), pixels[..., :3])
    gray = pixels[..., :1]
    assert np.array_equal(draw.to_rgb(gray), np.repeat(gray, 3, -1))


def test_other_dtypes_are_stretched_between_their_tails():
    pixels = RNG.normal(5000, 300, (60, 70, 3)).astype(np.uint16)
    low, high = np.percentile(pixels, [2, 98])
    expected = np.clip((pixels - low) / (high - low), 0, 1) * 255
    assert np.abs(draw.to_rgb(pixels) - expected).max() <= 0.5 + 1e-9
    assert np.array_equal(draw.to_rgb(pixels), draw.to_rgb(pixels.astype(np.float32)))


def test_nodata_and_nan_are_neutral_and_do_not_stretch():
    pixels = RNG.normal(0.5, 0.1, (20, 20, 1)).astype(np.float32)
    valid = np.ones((20, 20), np.bool_)
    valid[3] = False
    spoiled = pixels.copy()
    spoiled[3] = 1e9
    spoiled[4, :7] = np.nan
    found = draw.to_rgb(spoiled, valid)
    assert (found[3] == draw.NODATA).all()
    assert (found[4, :7] == draw.NODATA).all()
    assert len(np.unique(found[:3])) > 20  # a stretch by 1e9 would leave two values


def test_pixels_all_nodata_or_all_equal_make_a_picture():
    assert (draw.to_rgb(np.full((3, 4, 1), np.nan)) == draw.NODATA).all()
    assert draw.to_rgb(np.full((3, 4, 3), 7, np.uint16)).shape == (3, 4, 3)


@given(st.integers(1, 8), st.integers(1, 30), st.integers(1, 30), st.sampled_from(["u1", "u2"]))
@settings(max_examples=30, deadline=None)
def test_colorize_is_a_look_up_and_void_is_striped(classes, height, width, dtype):
    colors = RNG.integers(0, 256, (classes, 3)).astype(np.uint8)
    void = np.iinfo(dtype).max
    labels = RNG.integers(0, classes + 1, (height, width))
    labels = np.where(labels == classes, void, labels).astype(dtype)
    found = draw.colorize(labels, colors)
    inside = labels != void
    assert np.array_equal(found[inside], colors[labels[inside]])
    assert np.array_equal(found[~inside], draw.stripes(height, width)[~inside])


@given(st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_borders_lie_where_scikit_image_finds_them(height, width):
    labels = RNG.integers(0, 3, (height, width))
    ours = draw.borders(labels)
    assert not (ours & ~find_boundaries(labels, mode="thick")).any()
    right, below = labels[:, :-1] != labels[:, 1:], labels[:-1] != labels[1:]
    assert ours[:, :-1][right].all()
    assert ours[:-1][below].all()
    assert ours.sum() <= right.sum() + below.sum()


def test_overlay_blends_as_scikit_image_does():
    image = RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    labels = np.zeros((16, 16), np.int16)
    labels[4:12, 4:12] = 1
    found = draw.overlay(image, labels, COLORS, opacity=0.4)
    expected = 255 * label2rgb(labels, image, COLORS / 255, alpha=0.4, bg_label=-1, saturation=1)
    inside = ~draw.borders(labels)
    assert np.abs(found[inside] - expected[inside]).max() <= 1
    assert (found[~inside] == COLORS[labels[~inside]]).all()


def test_overlay_leaves_clear_classes_as_they_are():
    image = RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    labels = np.zeros((16, 16), np.uint8)
    labels[4:12, 4:12] = 1
    found = draw.overlay(image, labels, COLORS, clear=[0])
    assert np.array_equal(found[labels == 0], image[labels == 0])
    assert (found[labels == 1] != image[labels == 1]).any()


def test_error_map_tells_right_wrong_missing_and_not_scored_apart():
    image = np.full((2, 3, 3), 120, np.uint8)
    labels = np.uint8([[0, 1, 2], [255, 0, 2]])
    truth = np.uint8([[1, 0, 0], [0, 0, 255]])  # labels 0 and 1 are swapped, 2 is no class
    found = draw.error_map(image, labels, truth, {0: 1, 1: 0, 2: None}, 2)
    right, wrong, missing = found[0, 0], found[0, 2], found[1, 0]
    assert (found[0, 1] == right).all()
    assert (found[1, 1] == wrong).all()
    assert np.abs(wrong.astype(int) - draw.WRONG).max() < 40
    assert np.abs(missing.astype(int) - draw.UNLABELLED).max() < 40
    assert right[1] > right[0]  # greenish
    assert (found[1, 2] == draw.stripes(2, 3)[1, 2]).all()


def test_a_signed_response_is_grey_around_its_zero():
    response = cv2.Sobel(RNG.integers(0, 256, (40, 40)).astype(np.float64), cv2.CV_64F, 1, 0)
    found = draw.signed(response)[..., 0].astype(int)
    order = np.argsort(response, axis=None)
    assert (np.diff(found.ravel()[order]) >= 0).all()  # monotone
    assert (draw.signed(np.zeros((2, 2))) == 128).all()
    assert np.abs(draw.signed(-response)[..., 0] + found - 256).max() <= 1  # odd, about 128


def test_a_sheet_holds_its_panels_side_by_side_with_a_legend():
    a, b = RNG.integers(0, 256, (2, 30, 300, 3)).astype(np.uint8)
    found = draw.sheet(
        [("first", a), ("a caption much too long " * 9, b)], [("class ü", (1, 2, 3))]
    )
    places = [
        (y, x)
        for y in range(found.shape[0] - 29)
        for x in range(found.shape[1] - 299)
        if np.array_equal(found[y, x : x + 4], a[0, :4])
        or np.array_equal(found[y, x : x + 4], b[0, :4])
    ]
    (y1, x1), (y2, x2) = places
    assert y1 == y2
    assert x2 - x1 >= 300
    assert np.array_equal(found[y1 : y1 + 30, x1 : x1 + 300], a)
    assert np.array_equal(found[y2 : y2 + 30, x2 : x2 + 300], b)
    assert (found == (1, 2, 3)).all(-1).sum() > 100  # the legend's chip
    assert (found[:y1, x1 : x1 + 300] < 128).any()  # its caption
    assert (found[:y1, x2 + 300 :] == 255).all()  # the long one is cut


def test_small_pictures_are_enlarged_pixel_by_pixel():
    small = RNG.integers(0, 256, (3, 5, 3)).astype(np.uint8)
    assert np.array_equal(
        draw.enlarge(small, 16),
        cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST),
    )
    assert draw.enlarge(small, 5) is small


def test_pictures_are_encoded_in_rgb_order():
    picture = np.zeros((8, 9, 3), np.uint8)
    picture[..., 0] = 200
    png = np.asarray(Image.open(io.BytesIO(draw.encode_png(picture))))
    assert np.array_equal(png, picture)
    jpeg = np.asarray(Image.open(io.BytesIO(draw.encode_jpeg(picture)))).astype(int)
    assert np.abs(jpeg - picture).max() < 12
