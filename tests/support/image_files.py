"""Image files as people have them, whole and broken, with what has to become of each."""

import io
import random
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageDraw

EXACT, LOSSY = 0.0, 12.0  # mean difference from the scene, of 255


@dataclass(frozen=True)
class ImageFile:
    """A file and what is expected of it.

    Fields:
        name: file name.
        content: its bytes.
        expected: the code of the error, or the largest mean difference from `reference`.
        reference: the image that a viewer shows.
    """

    name: str
    content: bytes
    expected: str | float
    reference: Image.Image | None = None


def scene(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Return a smooth image with some dark lines, on white."""
    width, height = size
    rows, cols = np.mgrid[0:height, 0:width]
    pixels = np.stack([cols * 255 // width, rows * 255 // height, np.full_like(rows, 200)], axis=-1)
    image = Image.fromarray(pixels.astype(np.uint8))
    ImageDraw.Draw(image).rectangle((8, 8, 24, 20), fill=(255, 255, 255), outline=(0, 0, 0))
    return image


def gray_scene() -> Image.Image:
    """Return the scene in gray, stretched over all values."""
    gray = np.asarray(scene().convert("L")).astype(np.int64)
    gray = (gray - gray.min()) * 255 // (gray.max() - gray.min())
    return Image.fromarray(gray.astype(np.uint8))


def encoded(image: Image.Image, format: str, **options) -> bytes:
    """Return the bytes of an image in a format."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_alpha(image: Image.Image) -> Image.Image:
    """Return an image whose right half is transparent; the pixels behind are black."""
    rgba = image.convert("RGBA")
    rgba.paste((0, 0, 0, 0), (image.width // 2, 0, image.width, image.height))
    return rgba


def on_white(image: Image.Image) -> Image.Image:
    """Return what a viewer shows of `with_alpha(image)`."""
    shown = image.copy()
    shown.paste((255,) * len(image.getbands()), (image.width // 2, 0, image.width, image.height))
    return shown


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_size(width: int, height: int, bits: int = 1, channels: int = 1) -> bytes:
    """Return a small PNG file of many pixels, all of them 0: gray, or RGBA of 4 channels."""
    row = b"\0" * (1 + (width * channels * bits + 7) // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    color_type = {1: 0, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def pdf(pages: list[Image.Image], resolution: float = 200) -> bytes:
    """Return a PDF file of images that cover its pages; at 200 pixels an inch they are drawn as they are."""
    # Pillow leaves the options of a file in its images.
    pages = [page.copy() for page in pages]
    return encoded(pages[0], "PDF", save_all=True, append_images=pages[1:], resolution=resolution)


def locked_pdf() -> bytes:
    """Return a PDF file that no password opens: its hashes are of none."""
    hashes = b"41" * 32
    return (
        b"%PDF-1.4\n1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj\n"
        b"2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj\n"
        b"3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 90 90]>> endobj\n"
        b"4 0 obj <</Filter /Standard /V 1 /R 2 /P -4 /O <" + hashes + b"> /U <" + hashes + b">>> endobj\n"
        b"trailer <</Root 1 0 R /Encrypt 4 0 R /ID [<4142> <4142>]>>\n%%EOF\n"
    )


def readable_files() -> dict[str, ImageFile]:
    """Return files that show a scene, by what they are."""
    image, gray = scene(), gray_scene()
    files: dict[str, ImageFile] = {}

    def add(name: str, file: str, content: bytes, tolerance: float, reference: Image.Image) -> None:
        files[name] = ImageFile(file, content, tolerance, reference)

    # Every format, by its own ending.
    for format, ending, tolerance in [
        ("PNG", "png", EXACT), ("BMP", "bmp", EXACT), ("TIFF", "tif", EXACT), ("PPM", "ppm", EXACT),
        ("JPEG", "jpg", LOSSY), ("WEBP", "webp", LOSSY), ("AVIF", "avif", LOSSY), ("JPEG2000", "jp2", LOSSY),
    ]:  # fmt: skip
        add(f"{format}", f"a.{ending}", encoded(image, format), tolerance, image)
        add(f"{format} with the ending of another", "a.jpeg", encoded(image, format), tolerance, image)
        add(f"{format} without an ending", "a", encoded(image, format), tolerance, image)
        add(f"{format} in gray", f"g.{ending}", encoded(gray, format), tolerance, gray)

    for ending in ("JPG", "jpe", "jfif", "JPEG"):
        add(f"JPEG named .{ending}", f"a.{ending}", encoded(image, "JPEG"), LOSSY, image)

    add("GIF", "a.gif", encoded(gray, "GIF"), EXACT, gray)
    add("lossless WebP", "a.webp", encoded(image, "WEBP", lossless=True), EXACT, image)
    add("progressive JPEG", "a.jpg", encoded(image, "JPEG", progressive=True), LOSSY, image)
    add("CMYK JPEG", "a.jpg", encoded(image.convert("CMYK"), "JPEG"), LOSSY, image)
    add("CMYK TIFF", "a.tif", encoded(image.convert("CMYK"), "TIFF"), LOSSY, image)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    add("LAB TIFF", "a.tif", encoded(lab, "TIFF"), 3.0, image)
    add("palette PNG", "a.png", encoded(image.quantize(255), "PNG"), LOSSY, image)
    add("interlaced BMP", "a.bmp", encoded(image.convert("P"), "BMP"), 40.0, image)

    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        add(f"TIFF {compression}", "a.tif", encoded(image, "TIFF", compression=compression), EXACT, image)
    add("TIFF jpeg", "a.tif", encoded(image, "TIFF", compression="jpeg"), LOSSY, image)

    black_and_white = gray.point(lambda value: 255 if value > 127 else 0)
    for format in ("PNG", "TIFF", "BMP", "PPM"):
        add(
            f"{format} of 1 bit",
            "a",
            encoded(black_and_white.convert("1", dither=Image.Dither.NONE), format),
            EXACT,
            black_and_white,
        )
    add(
        "fax TIFF",
        "a.tif",
        encoded(black_and_white.convert("1", dither=Image.Dither.NONE), "TIFF", compression="group4"),
        EXACT,
        black_and_white,
    )

    # As the camera was held.
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = encoded(image, "PNG", exif=exif)
        undo = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }[orientation]
        add(f"EXIF orientation {orientation}", "a.png", stored, EXACT, image.transpose(undo))
    add("broken EXIF", "a.jpg", encoded(image, "JPEG", exif=b"Exif\0\0II*\0\xff\xff"), LOSSY, image)

    # Transparency lies on white.
    shown, shown_gray = on_white(image), on_white(gray)
    for format, tolerance in [("PNG", EXACT), ("TIFF", EXACT), ("WEBP", LOSSY), ("AVIF", LOSSY)]:
        options = {"lossless": True} if format == "WEBP" else {}
        add(f"transparent {format}", "a", encoded(with_alpha(image), format, **options), tolerance, shown)
    add("transparent gray PNG", "a.png", encoded(with_alpha(gray).convert("LA"), "PNG"), EXACT, shown_gray)
    keyed = gray.point(lambda value: max(value, 1))
    keyed.paste(0, (keyed.width // 2, 0, keyed.width, keyed.height))
    add("PNG with a transparent gray", "a.png", encoded(keyed, "PNG", transparency=0), 1.0, shown_gray)
    palette = keyed.convert("P")
    add("palette PNG with transparency", "a.png", encoded(palette, "PNG", transparency=0), 1.0, shown_gray)
    add("GIF with transparency", "a.gif", encoded(keyed, "GIF", transparency=0), 1.0, shown_gray)
    clear = Image.new("RGBA", image.size, (0, 0, 0, 0))
    add(
        "PNG that is all transparent",
        "a.png",
        encoded(clear, "PNG"),
        EXACT,
        Image.new("RGB", image.size, "white"),
    )

    # Deep pixels keep their contrast.
    values = np.asarray(gray).astype(np.float64)
    for bits in (8, 10, 12, 14, 16):
        deep = Image.fromarray(np.round(values * (2**bits - 1) / 255).astype(np.uint16))
        for format in ("PNG", "TIFF"):
            add(f"{format} of {bits} in 16 bits", "a", encoded(deep, format), 1.0, gray)
    for name, deep_values in {
        "int32": (values * 1000).astype(np.int32),
        "negative int32": (values * 10 - 500).astype(np.int32),
        "float 0 to 1": (values / 255).astype(np.float32),
        "float 0 to 255": values.astype(np.float32),
        "float of any range": (values * 37.5 - 900).astype(np.float32),
    }.items():
        add(f"TIFF of {name}", "a.tif", encoded(Image.fromarray(deep_values), "TIFF"), 1.0, gray)

    # Several frames or pages: the first.
    other = Image.new("RGB", image.size, "red")
    for format in ("TIFF", "WEBP", "PNG"):
        options = {"lossless": True} if format == "WEBP" else {}
        content = encoded(image, format, save_all=True, append_images=[other, other], **options)
        add(f"{format} of three frames", "a", content, EXACT, image)
    gif = encoded(gray, "GIF", save_all=True, append_images=[Image.new("L", gray.size, 90)])
    add("GIF of two frames", "a.gif", gif, 1.0, gray)

    document = pdf([image, other])
    for file in ("a.pdf", "a.png", "a"):
        add(f"PDF named {file}", file, document, LOSSY, image)
    add("PDF after other bytes", "a.pdf", b"\xef\xbb\xbf\n" + document, LOSSY, image)

    # Odd shapes.
    for size in [(1, 1), (1, 5000), (5000, 1), (3, 900)]:
        small = Image.new("RGB", size, (10, 200, 30))
        add(f"{size[0]} x {size[1]} pixels", "a.png", encoded(small, "PNG"), EXACT, small)

    return files


def unreadable_files() -> dict[str, ImageFile]:
    """Return files that are no image, broken or too large, by what they are."""
    image = scene((200, 150))
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    files: dict[str, ImageFile] = {}

    def add(name: str, content: bytes, code: str, file: str = "a.png") -> None:
        files[name] = ImageFile(file, content, code)

    add("an empty file", b"", "empty")
    for name, content in {
        "text": b"not an image",
        "HTML": b"<!doctype html><html><body>404</body></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "zeros": b"\0" * 5000,
        "a zip file": b"PK\x03\x04" + b"\0" * 200,
        "an executable": b"\x7fELF" + b"\0" * 200,
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch executed'\ntR.",
        "random bytes": random.Random(0).randbytes(4000),
        "WMF": b"\xd7\xcd\xc6\x9a" + b"\0" * 60,
        "a Photoshop file": b"8BPS\0\x01" + b"\0" * 60,
        "a Windows icon": encoded(image.resize((16, 16)), "ICO"),
        "half a magic number": b"\x89PN",
        "JSON": b'{"image": "a.png"}',
    }.items():
        add(name, content, "unsupported")

    add("PDF without pages", b"%PDF-1.4\n1 0 obj <<>> endobj\n%%EOF\n", "truncated", "a.pdf")
    add("PDF that a password locks", locked_pdf(), "unsupported", "a.pdf")
    add("PDF cut at 10%", pdf([image])[:200], "truncated", "a.pdf")

    # Cut off, at different places of the file.
    endings = {
        "JPEG": "jpg",
        "PNG": "png",
        "BMP": "bmp",
        "GIF": "gif",
        "TIFF": "tif",
        "PPM": "ppm",
        "WEBP": "webp",
    }
    for format, ending in endings.items():
        whole = encoded(image, format)
        for share in (0.3, 0.6, 0.9):
            add(f"{format} cut at {share:.0%}", whole[: int(len(whole) * share)], "truncated", f"a.{ending}")
    add("PNG with a wrong checksum", png[:40] + bytes([png[40] ^ 255]) + png[41:], "unsupported")
    add("PNG whose pixels are noise", png[:60] + random.Random(1).randbytes(len(png) - 60), "truncated")
    add("JPEG without its image", jpeg[:200], "truncated", "a.jpg")

    # Larger than memory should bear.
    add("13,300 x 13,300 pixels of 1 bit", png_of_size(13_300, 13_300), "too-large")
    add("a side of 20,000 pixels", png_of_size(20_000, 2), "too-large")
    add("PPM that claims 10^16 pixels", b"P6\n100000000 100000000\n255\n" + b"\0" * 99, "too-large", "a.ppm")
    gif = bytearray(encoded(image, "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    add("GIF that claims 65,535 x 65,535 pixels", bytes(gif), "too-large", "a.gif")
    for width, height in [(0, 5), (5, 0)]:
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        empty = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IEND", b"")
        add(f"PNG of {width} x {height} pixels", empty, "unsupported")

    not_a_number = np.full((9, 9), np.nan, np.float32)
    add("TIFF of NaN", encoded(Image.fromarray(not_a_number), "TIFF"), "unsupported", "a.tif")
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 80_000_000))
    add("PNG with a text of 80 MB", png[:33] + bomb + png[33:], "truncated")
    return files
