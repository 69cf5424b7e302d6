package scan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
)

// The hash table of Berkeley DB rpm kept its packages in until 4.16: pages of one size, of which the first tells of the others. A
// record is a package's number and its header, which lies on a chain of overflow pages of its own as it is larger than a page is made for.
const (
	bdbMagic      = 0x061561
	bdbMagicAt    = 12
	bdbPageSizeAt = 20
	bdbCipherAt   = 24
	bdbFlagsAt    = 26 // checksums and partitions, which rpm does not use
	bdbLastPageAt = 32
	bdbRecordsAt  = 88
	bdbMetaBytes  = 96 // up to what is read of the first page

	bdbPageHead   = 26
	bdbMinPage    = 512
	bdbMaxPage    = 64 << 10
	bdbOffpage    = 12 // the bytes of a reference to overflow pages
	bdbPackageKey = 4  // the bytes of a package's number
)

// Types of pages, at offset 25, and of what lies on a hash page.
const (
	bdbUnsortedPage = 2 // before Berkeley DB 4.6
	bdbOverflowPage = 7
	bdbMetaPage     = 8
	bdbHashPage     = 13

	bdbInline  = 1
	bdbOffPage = 3
)

// bdb is a database that is looked at.
type bdb struct {
	data     []byte
	order    binary.ByteOrder
	pageSize int
	pages    int
	// chained are the overflow pages followed so far: each belongs to one record.
	chained []bool
	// records are those seen. The database states how many there are.
	records int
}

// isBDB reports whether data begins as a hash table of Berkeley DB does.
func isBDB(data []byte) bool {
	return len(data) >= bdbMetaBytes &&
		(binary.LittleEndian.Uint32(data[bdbMagicAt:]) == bdbMagic || binary.BigEndian.Uint32(data[bdbMagicAt:]) == bdbMagic)
}

func openBDB(data []byte) (*bdb, error) {
	d := &bdb{data: data, order: binary.LittleEndian}
	if d.order.Uint32(data[bdbMagicAt:]) != bdbMagic {
		d.order = binary.BigEndian
	}
	if data[bdbCipherAt] != 0 || data[bdbCipherAt+1] != bdbMetaPage || data[bdbFlagsAt] != 0 {
		return nil, errors.New("a kind of Berkeley DB rpm does not write")
	}
	size := d.order.Uint32(data[bdbPageSizeAt:])
	if size < bdbMinPage || size > bdbMaxPage || size&(size-1) != 0 {
		return nil, fmt.Errorf("pages of %d bytes", size)
	}
	d.pageSize = int(size)
	pages := int64(d.order.Uint32(data[bdbLastPageAt:])) + 1
	if pages > int64(len(data)/d.pageSize) {
		return nil, fmt.Errorf("%d bytes, too few for %d pages", len(data), pages)
	}
	d.pages = int(pages)
	d.chained = make([]bool, d.pages)
	return d, nil
}

// page returns the page with number n, which says of itself that it is.
func (d *bdb) page(n int) ([]byte, error) {
	if n <= 0 || n >= d.pages {
		return nil, fmt.Errorf("there is no page %d", n)
	}
	p := d.data[n*d.pageSize:][:d.pageSize]
	if at := d.order.Uint32(p[8:]); at != uint32(n) {
		return nil, fmt.Errorf("page %d says it is page %d", n, at)
	}
	return p, nil
}

// bdbHeaders yields the header of each package, valid until the next, and at the end what is wrong with the database, if anything is. What
// it cannot see is a record that is gone from its page and from the count of records.
func bdbHeaders(data []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		d, err := openBDB(data)
		if err == nil {
			err = d.each(func(header []byte) bool { return yield(header, nil) })
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

// errStopped says that whoever was shown headers wants no more.
var errStopped = errors.New("stopped")

func (d *bdb) each(visit func(header []byte) bool) error {
	for n := 1; n < d.pages; n++ {
		// A page that was never used is zeros and says nothing of itself.
		if kind := d.data[n*d.pageSize+25]; kind != bdbHashPage && kind != bdbUnsortedPage {
			continue
		}
		p, err := d.page(n)
		if err != nil {
			return err
		}
		if err := d.hashPage(p, visit); err != nil {
			return fmt.Errorf("page %d: %w", n, err)
		}
	}
	if stated := d.order.Uint32(d.data[bdbRecordsAt:]); uint32(d.records) < stated {
		return fmt.Errorf("%d of %d records could be read", d.records, stated)
	}
	return nil
}

// hashPage shows visit the headers of the page p. Its items, keys and values in turn, lie from its end towards its beginning.
func (d *bdb) hashPage(p []byte, visit func(header []byte) bool) error {
	entries := int(d.order.Uint16(p[20:]))
	if entries%2 != 0 || bdbPageHead+2*entries > len(p) {
		return fmt.Errorf("%d entries", entries)
	}
	end := len(p)
	var key []byte
	for i := range entries {
		at := int(d.order.Uint16(p[bdbPageHead+2*i:]))
		if at < bdbPageHead+2*entries || at >= end {
			return fmt.Errorf("an item at %d, before one at %d", at, end)
		}
		item := p[at:end]
		end = at
		if i%2 == 0 {
			if item[0] != bdbInline || len(item) != 1+bdbPackageKey {
				return errors.New("a key that is no package's number")
			}
			key = item[1:]
			continue
		}
		d.records++
		if d.order.Uint32(key) == 0 { // where rpm keeps the number it gave last
			if item[0] != bdbInline || len(item) != 1+bdbPackageKey {
				return errors.New("a package without a number")
			}
			continue
		}
		header, err := d.value(item)
		if err != nil {
			return fmt.Errorf("package %d: %w", d.order.Uint32(key), err)
		}
		if !visit(header) {
			return errStopped
		}
	}
	return nil
}

// value returns what item says, or what lies on the overflow pages it refers to.
func (d *bdb) value(item []byte) ([]byte, error) {
	switch {
	case item[0] == bdbInline:
		return item[1:], nil
	case item[0] != bdbOffPage || len(item) != bdbOffpage:
		return nil, fmt.Errorf("a value of type %d", item[0])
	}
	next, size := int(d.order.Uint32(item[4:])), int64(d.order.Uint32(item[8:]))
	if size > int64(len(d.data)) {
		return nil, fmt.Errorf("a value of %d bytes", size)
	}
	value := make([]byte, 0, size)
	for next != 0 {
		p, err := d.page(next)
		if err != nil {
			return nil, err
		}
		if p[25] != bdbOverflowPage || d.chained[next] {
			return nil, fmt.Errorf("page %d is not the next of its value", next)
		}
		d.chained[next] = true
		used := int(d.order.Uint16(p[22:]))
		if used > len(p)-bdbPageHead || int64(len(value)+used) > size {
			return nil, fmt.Errorf("page %d holds more than its value has", next)
		}
		value = append(value, p[bdbPageHead:][:used]...)
		next = int(d.order.Uint32(p[16:]))
	}
	if int64(len(value)) != size {
		return nil, fmt.Errorf("%d of %d bytes", len(value), size)
	}
	return value, nil
}
