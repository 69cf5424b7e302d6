package ledger

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// root is where the ledger lies, beside the registry's own tree.
const root = "/tidewaiter/ledger"

// verdictsRoot is where the verdicts of all repositories lie.
const verdictsRoot = root + "/verdicts"

// verdictsDir ends the path of a repository's verdicts. No component of a repository name starts with '_', so it cannot be one.
const verdictsDir = "_v"

// eventsDir does the same for the records of a [Log]. In it there is a directory for each day, so that what is new is found
// without listing what is old.
const eventsDir = "_e"

// pendingDir does it for records that are forgotten one by one. They lie in one directory, since there are few.
const pendingDir = "_p"

// errBroken says that a record is not one we wrote for that name, or not in a form this version writes.
var errBroken = errors.New("the record is broken")

// bounds are how large a record may be, as stored and as JSON.
type bounds struct{ storedBytes, plainBytes int64 }

// limits keep what is read and remembered finite.
type limits struct {
	inventory, verdict, event bounds
	// folded is how many verdicts are indexed in memory. Beyond it repositories are forgotten and read again when asked about; the
	// index of a single repository is kept whole.
	folded int
	// history is how many verdicts [Ledger.History] returns at most.
	history int
}

// production are the limits outside tests.
var production = limits{
	inventory: bounds{storedBytes: 64 << 20, plainBytes: 256 << 20}, // a layer of a million packages
	verdict:   bounds{storedBytes: 16 << 20, plainBytes: 64 << 20},  // some ten thousand findings, each with its reasons
	event:     bounds{storedBytes: 1 << 20, plainBytes: 4 << 20},    // an index of a thousand children, or annotations of 64 KiB
	folded:    1 << 19,                                              // at some 300 bytes each
	history:   1000,                                                 // a new one comes with each advisory snapshot, some a day
}

func isBroken(err error) bool { return errors.Is(err, errBroken) }

func isAbsent(err error) bool {
	_, absent := errors.AsType[storagedriver.PathNotFoundError](err)
	return absent
}

// inventoryPath returns where the inventory of layer lies.
func inventoryPath(layer oci.Digest) (string, error) {
	if _, err := oci.ParseDigest(layer.String()); err != nil {
		return "", err
	}
	digits := layer.Encoded()
	return path.Join(root, "inventories", "v"+strconv.Itoa(gate.InventoryFormat), layer.Algorithm().String(), digits[:2], digits), nil
}

// verdictsPath returns where the verdicts of repo lie.
func verdictsPath(repo oci.Repository) (string, error) {
	if !oci.ValidPath(repo.Escaped()) {
		return "", fmt.Errorf("repository %.100q: %w", repo.String(), oci.ErrNameInvalid)
	}
	return path.Join(verdictsRoot, repo.Escaped(), verdictsDir), nil
}

// eventsKind is the kind of the events of hosted repositories.
const eventsKind = "events"

// dayDigits hold every day of a stamp.
const dayDigits = 6

// dayName returns the name of the directory for events with this stamp. It sorts by time.
func dayName(stamp int64) string {
	return fmt.Sprintf("%0*d", dayDigits, max(stamp, 0)/int64(24*time.Hour))
}

// isDayName reports whether name may be such a name.
func isDayName(name string) bool {
	return len(name) == dayDigits && strings.Trim(name, "0123456789") == ""
}

// stampDigits hold every positive int64.
const stampDigits = 20

// recordName returns a name that sorts by stamp, nanoseconds since 1970. Its end comes from the content, so that two replicas that
// share a nanosecond write different records under different names.
func recordName(stamp int64, plain []byte) string {
	sum := sha256.Sum256(plain)
	return fmt.Sprintf("%0*d-%x", stampDigits, stamp, sum[:4])
}

// parseName returns the stamp of a record's name. ok is false when it is no such name.
func parseName(name string) (stamp int64, ok bool) {
	digits, sum, found := strings.Cut(name, "-")
	if !found || len(digits) != stampDigits || len(sum) != 8 {
		return 0, false
	}
	stamp, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || stamp <= 0 || digits[0] == '+' {
		return 0, false
	}
	_, err = hex.DecodeString(sum)
	return stamp, err == nil && sum == strings.ToLower(sum)
}

// encode returns v as JSON.
//
// Errors: oci.ErrTooLarge.
func encode(v any, limit bounds) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if int64(len(plain)) > limit.plainBytes {
		return nil, fmt.Errorf("%d bytes: %w", len(plain), oci.ErrTooLarge)
	}
	return plain, nil
}

// write stores plain, compressed and sealed for path. When it returns nil a restart does not lose it.
//
// Errors: oci.ErrTooLarge, and whatever the driver returns.
func (l *Ledger) write(ctx context.Context, path string, plain []byte, limit bounds) error {
	var compressed bytes.Buffer
	zw := gzip.NewWriter(&compressed)
	_, err := zw.Write(plain)
	if err := errors.Join(err, zw.Close()); err != nil {
		return err
	}
	sealed := l.key.Seal(path, compressed.Bytes())
	if int64(len(sealed)) > limit.storedBytes {
		return fmt.Errorf("%d bytes compressed: %w", len(sealed), oci.ErrTooLarge)
	}
	return l.driver.PutContent(ctx, path, sealed)
}

// read returns the record stored at path.
//
// Errors: errBroken, storagedriver.PathNotFoundError, and whatever the driver returns.
func read[T any](ctx context.Context, l *Ledger, path string, limit bounds) (record T, err error) {
	r, err := l.driver.Reader(ctx, path, 0)
	if err != nil {
		return record, err
	}
	defer func() { _ = r.Close() }() // only read from
	sealed, err := oci.ReadBounded(r, limit.storedBytes)
	if errors.Is(err, oci.ErrTooLarge) {
		return record, fmt.Errorf("%w: %v", errBroken, err)
	}
	if err != nil {
		return record, err
	}
	compressed, err := l.key.Open(path, sealed)
	if err != nil {
		return record, fmt.Errorf("%w: %v", errBroken, err)
	}
	if err := decode(compressed, limit.plainBytes, &record); err != nil {
		var none T
		return none, fmt.Errorf("%w: %v", errBroken, err)
	}
	return record, nil
}

// decode reads compressed JSON into record, which is not to be used when it fails. What was sealed is ours, so a field it does not
// know is from a later version, and leaving it out could change what the record says: it refuses the whole.
func decode(compressed []byte, limit int64, record any) error {
	zr, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return err
	}
	plain, err := oci.ReadBounded(zr, limit)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	if err := d.Decode(record); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows its end")
	}
	return nil
}
