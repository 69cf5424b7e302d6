package scan

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/tidewaiter/tidewaiter/gate"
)

// encoding is how a layer's tar stream is compressed. Its value travels to the process that reads the layer.
type encoding byte

const (
	encodingPlain encoding = 't'
	encodingGzip  encoding = 'g'
	encodingZstd  encoding = 'z'
)

// encodings maps what a layer's first bytes tell to how it is read. Runtimes know no others.
var encodings = map[string]encoding{"": encodingPlain, "gzip": encodingGzip, "zstd": encodingZstd}

// compressionNames are the encodings as inventories name them.
var compressionNames = map[encoding]string{
	encodingPlain: gate.CompressionNone, encodingGzip: gate.CompressionGzip, encodingZstd: gate.CompressionZstd,
}

// encodingOf returns how a layer that begins with head is to be read, or a gap when it cannot be. What a manifest calls the layer
// plays no part: an inventory is of the bytes, whoever lists them and as whatever. Whether the two agree is for the gate to say.
func encodingOf(head []byte) (encoding, *gate.Gap) {
	found := sniff(head)
	if enc, ok := encodings[found]; ok {
		return enc, nil
	}
	return 0, &gate.Gap{Kind: gate.GapUnreadableLayer, Why: "it begins like " + found + ", which no runtime unpacks"}
}

// magics are the first bytes of what runtimes decompress, whatever the media type says.
var magics = map[string][][]byte{
	"gzip":  {{0x1f, 0x8b, 0x08}},
	"zstd":  {{0x28, 0xb5, 0x2f, 0xfd}},
	"bzip2": {[]byte("BZh")},
	"xz":    {{0xfd, '7', 'z', 'X', 'Z', 0x00}},
}

var encodingNames = map[encoding]string{encodingPlain: "", encodingGzip: "gzip", encodingZstd: "zstd"}

// magicBytes is the length of the longest of magics.
const magicBytes = 6

// sniff returns the compression head begins with, or "". A zstd stream may begin with a skippable frame.
func sniff(head []byte) string {
	for name, prefixes := range magics {
		for _, prefix := range prefixes {
			if bytes.HasPrefix(head, prefix) {
				return name
			}
		}
	}
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}) {
		return "zstd"
	}
	return ""
}

// decoder returns the tar stream of src, which must begin as enc says.
func decoder(src io.Reader, enc encoding) (io.Reader, error) {
	announced, known := encodingNames[enc]
	if !known {
		return nil, fmt.Errorf("encoding %d is not known", enc)
	}
	buffered := bufio.NewReaderSize(src, chunkBytes)
	head, err := buffered.Peek(magicBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if found := sniff(head); found != announced {
		return nil, fmt.Errorf("announced as %s, it begins like %s", orPlain(announced), orPlain(found))
	}
	switch enc {
	case encodingGzip:
		return gzip.NewReader(buffered)
	case encodingZstd:
		// One goroutine: the decoder already runs beside the walk.
		return zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindowBytes))
	default:
		return buffered, nil
	}
}

func orPlain(compression string) string {
	if compression == "" {
		return "a plain tar"
	}
	return compression
}
