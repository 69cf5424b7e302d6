package scan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zip"
)

// How a ZIP archive ends (APPNOTE.TXT, 4.3.12 to 4.3.16): the directory, in a large archive its end in wider numbers and where that is,
// and the end of the directory with a comment.
const (
	zipEntryMagic     = "PK\x01\x02"
	zipEndMagic       = "PK\x05\x06"
	zipWideEndMagic   = "PK\x06\x06"
	zipLocatorMagic   = "PK\x06\x07"
	zipEntryBytes     = 46 // without its name, its extra fields and its comment
	zipEndBytes       = 22
	zipWideEndBytes   = 56
	zipLocatorBytes   = 20
	maxZipComment     = 1<<16 - 1
	zipNarrowRecords  = 1<<16 - 1 // which says that the wider number counts, as do all ones elsewhere
	zipNarrowPosition = 1<<32 - 1
)

// zipDirectory is what the end of an archive says of its directory.
type zipDirectory struct{ records, size, offset uint64 }

// errAmbiguousZip says that programs differ in what they find in an archive.
var errAmbiguousZip = errors.New("an archive of which others may read another directory")

// openZip opens the archive in data and returns what is the archive of that, in which its files lie.
func openZip(data []byte) (files *zip.Reader, proper []byte, err error) {
	proper, size, err := zipProper(data)
	if err != nil {
		return nil, nil, err
	}
	if files, err = zip.NewReader(bytes.NewReader(proper), int64(len(proper))); err != nil {
		return nil, nil, err
	}
	var read uint64
	for _, f := range files.File {
		read += uint64(zipEntryBytes + len(f.Name) + len(f.Extra) + len(f.Comment))
	}
	if read != size { // it stops where it does not understand a file, and believes how many there are
		return nil, nil, errAmbiguousZip
	}
	return files, proper, nil
}

// zipProper returns the archive in data without what is before it, a script that starts it, and the bytes of its directory. Programs look for
// the directory right before its end, as Java and Python do, or where its offset says, or they take another end than the last: where that
// would not be the same, it is an error. What has no end is returned as it is.
func zipProper(data []byte) (proper []byte, size uint64, err error) {
	tail := data[max(0, len(data)-zipEndBytes-maxZipComment):]
	at := bytes.LastIndex(tail[:max(0, len(tail)-zipEndBytes+len(zipEndMagic))], []byte(zipEndMagic))
	if at < 0 {
		return data, 0, nil
	}
	at += len(data) - len(tail)
	end := data[at:]
	d := zipDirectory{
		uint64(binary.LittleEndian.Uint16(end[10:])), uint64(binary.LittleEndian.Uint32(end[12:])), uint64(binary.LittleEndian.Uint32(end[16:])),
	}
	after := uint64(at) // the directory
	if at >= zipLocatorBytes && bytes.HasPrefix(data[at-zipLocatorBytes:], []byte(zipLocatorMagic)) {
		if d, err = d.widened(data[:at-zipLocatorBytes]); err != nil {
			return nil, 0, err
		}
		after -= zipLocatorBytes + zipWideEndBytes
	}
	if d.size > after || d.offset > after-d.size {
		return nil, 0, errors.New("the directory lies before the archive")
	}
	begin := after - d.size
	proper = data[begin-d.offset:]
	whole := int(binary.LittleEndian.Uint16(end[20:]))+zipEndBytes == len(end)
	if !whole && !bytes.HasPrefix(data[begin:], []byte(zipEntryMagic)) { // something follows, and Java looks for another end
		return nil, 0, errAmbiguousZip
	}
	return proper, d.size, nil
}

// widened returns what the wider end says, with which before ends, if d leaves it to that or agrees.
func (d zipDirectory) widened(before []byte) (zipDirectory, error) {
	end := before[max(0, len(before)-zipWideEndBytes):]
	if len(end) < zipWideEndBytes || !bytes.HasPrefix(end, []byte(zipWideEndMagic)) {
		return d, errAmbiguousZip
	}
	number := func(i int) uint64 { return binary.LittleEndian.Uint64(end[i:]) }
	wide := zipDirectory{number(32), number(40), number(48)}
	for _, n := range []struct{ narrow, wide, limit uint64 }{
		{d.records, wide.records, zipNarrowRecords}, {d.size, wide.size, zipNarrowPosition}, {d.offset, wide.offset, zipNarrowPosition},
	} {
		if n.narrow != n.wide && n.narrow != n.limit {
			return d, errAmbiguousZip
		}
	}
	return wide, nil
}

// readZipped reads f into content, which is as long as f says it is.
func readZipped(f *zip.File, content []byte) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(r, content)
	if err == nil { // the end is where a checksum that is wrong, or more than was announced, shows
		if _, err = r.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	return content, errors.Join(err, r.Close())
}
