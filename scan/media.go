package scan

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// encoding is how a layer's tar stream is compressed. Its value travels to the process that reads the layer.
type encoding byte

const (
	encodingPlain encoding = 't'
	encodingGzip  encoding = 'g'
	encodingZstd  encoding = 'z'
)

// compressions are the suffixes of media types: OCI writes "+gzip", Docker ".gzip".
var compressions = []struct {
	suffix   string
	encoding encoding
}{
	{"+gzip", encodingGzip}, {".gzip", encodingGzip},
	{"+zstd", encodingZstd}, {".zstd", encodingZstd},
	{"", encodingPlain},
}

// encodingOf returns how a layer of mediaType is to be read, or a gap when it cannot be. Every type that says it is a tar is
// read: images' layers, the foreign and non-distributable ones whose bytes we were given all the same, charts.
func encodingOf(mediaType string) (encoding, *gate.Gap) {
	name := oci.BaseMediaType(mediaType)
	if strings.HasSuffix(name, "+encrypted") {
		return 0, &gate.Gap{Kind: gate.GapEncryptedLayer, Why: "the layer is encrypted"}
	}
	for _, c := range compressions {
		if tar, ok := strings.CutSuffix(name, c.suffix); ok && (strings.HasSuffix(tar, ".tar") || strings.HasSuffix(tar, "/tar")) {
			return c.encoding, nil
		}
	}
	return 0, &gate.Gap{
		Kind: gate.GapUnknownMediaType,
		Why:  fmt.Sprintf("layers of type %q are not looked into", printable(mediaType)),
	}
}

// magics are the first bytes of what runtimes decompress, whatever the media type says.
var magics = map[string][][]byte{
	"gzip":  {{0x1f, 0x8b, 0x08}},
	"zstd":  {{0x28, 0xb5, 0x2f, 0xfd}},
	"bzip2": {[]byte("BZh")},
	"xz":    {{0xfd, '7', 'z', 'X', 'Z', 0x00}},
}

var encodingNames = map[encoding]string{encodingPlain: "", encodingGzip: "gzip", encodingZstd: "zstd"}

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

// decoder returns the tar stream of src. Runtimes go by the first bytes and we by the media type, so where the two disagree we
// would read something else than is run, and refuse.
func decoder(src io.Reader, enc encoding) (io.Reader, error) {
	announced, known := encodingNames[enc]
	if !known {
		return nil, fmt.Errorf("encoding %d is not known", enc)
	}
	buffered := bufio.NewReaderSize(src, chunkBytes)
	head, err := buffered.Peek(6)
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
