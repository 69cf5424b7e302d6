package scan

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

const (
	// maxRecordBytes bounds one OSV record; the longest published ones, which list every version there ever was, have a tenth of it.
	maxRecordBytes = 8 << 20
	// maxOverlayBytes bounds all of them together: they are held in memory.
	maxOverlayBytes = 256 << 20
)

// overlaySource names OSV records as the source of a finding.
const overlaySource = "osv"

// overlay holds OSV records by what they are about: the prefix of an ecosystem, "npm", or the bucket of a release, "debian 12", or
// the family of all releases, "debian"; and the name of the package.
type overlay map[string]map[string][]*overlayAdvisory

// overlayAdvisory is what one OSV record says about one package.
type overlayAdvisory struct {
	id        string
	title     string
	severity  gate.Severity
	published time.Time
	// ranges are the lines of versions it names, each in ascending order of events.
	ranges [][]overlayEvent
	// versions are the single versions it names.
	versions []string
}

// overlayEvent is a point in a line of versions: at a version the vulnerability comes in, goes, or was last seen.
type overlayEvent struct {
	kind    eventKind
	version string
}

type eventKind int

const (
	eventIntroduced eventKind = iota
	eventFixed
	eventLastAffected
)

// fromTheStart is the version OSV writes for "before all others".
const fromTheStart = "0"

// osvRecord is the part of the OSV schema (ossf.github.io/osv-schema, 1.7) that says what is affected, and how badly.
type osvRecord struct {
	ID               string        `json:"id"`
	Aliases          []string      `json:"aliases"`
	Summary          string        `json:"summary"`
	Published        time.Time     `json:"published"`
	Withdrawn        *time.Time    `json:"withdrawn"`
	Severity         []osvSeverity `json:"severity"`
	DatabaseSpecific osvSpecific   `json:"database_specific"`
	Affected         []osvAffected `json:"affected"`
}

type osvSeverity struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

type osvAffected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Severity []osvSeverity `json:"severity"`
	Ranges   []struct {
		Type   string              `json:"type"`
		Events []map[string]string `json:"events"`
	} `json:"ranges"`
	Versions          []string    `json:"versions"`
	EcosystemSpecific osvSpecific `json:"ecosystem_specific"`
	DatabaseSpecific  osvSpecific `json:"database_specific"`
}

// osvSpecific is an object whose shape each database chooses. Only a severity that is a word is read of it.
type osvSpecific struct{ severity gate.Severity }

// UnmarshalJSON implements json.Unmarshaler.
func (s *osvSpecific) UnmarshalJSON(text []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	var word string
	if json.Unmarshal(fields["severity"], &word) == nil { // else it is something of the database's own
		s.severity = severityWords[strings.ToLower(word)]
	}
	return nil
}

// readOverlay reads all OSV records, after the database, and returns a digest over their names and content.
func (d *advisoryData) readOverlay(ctx context.Context, now time.Time) (digest []byte, err error) {
	d.overlay = overlay{}
	h := sha256.New()
	left := int64(maxOverlayBytes)
	for _, f := range d.files.overlay() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		text, err := readBounded(f.path, min(maxRecordBytes, left))
		if err != nil {
			return nil, err
		}
		left -= int64(len(text))
		name := filepath.Base(f.path)
		_, _ = fmt.Fprintf(h, "%d:%s,%d:", len(name), name, len(text)) // a hash never fails; lengths keep files apart
		_, _ = h.Write(text)
		record, err := parseOSVRecord(text)
		if err == nil {
			err = d.overlay.add(record, now)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", f.path, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.overlay[ecosystems["maven"].prefix])) {
		d.index.addArtifact(name)
	}
	return h.Sum(nil), nil
}

// parseOSVRecord reads one OSV record. Fields it does not know it ignores, as the schema asks of readers.
func parseOSVRecord(text []byte) (osvRecord, error) {
	var r osvRecord
	if !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) {
		return osvRecord{}, errors.New("not an OSV record")
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return osvRecord{}, err
	}
	if r.ID == "" {
		return osvRecord{}, errors.New("an OSV record without an id")
	}
	return r, nil
}

// add takes r into the overlay, unless it has been withdrawn.
func (o overlay) add(r osvRecord, now time.Time) error {
	if r.Withdrawn != nil && !r.Withdrawn.After(now) {
		return nil
	}
	for _, affected := range r.Affected {
		scope, names, order, err := overlayScope(affected.Package.Ecosystem, affected.Package.Name)
		if err != nil {
			return err
		}
		if scope == "" {
			continue
		}
		a, err := newOverlayAdvisory(r, affected, order)
		if err != nil {
			return err
		}
		if o[scope] == nil {
			o[scope] = map[string][]*overlayAdvisory{}
		}
		for _, name := range names {
			o[scope][name] = append(o[scope][name], a)
		}
	}
	return nil
}

// newOverlayAdvisory returns what r says about one of the packages it affects. Ranges of commits say nothing about versions and are
// passed over; every other kind has to be understood.
func newOverlayAdvisory(r osvRecord, affected osvAffected, order versionOrder) (*overlayAdvisory, error) {
	a := &overlayAdvisory{
		id: r.name(), title: oneLine(r.Summary), published: r.Published.UTC(), severity: r.worst(affected), versions: affected.Versions,
	}
	for _, line := range affected.Ranges {
		switch line.Type {
		case "GIT":
			continue
		case "SEMVER", "ECOSYSTEM":
		default:
			return nil, fmt.Errorf("a range of type %s", quoted(line.Type))
		}
		var events []overlayEvent
		for _, fields := range line.Events {
			event, ok, err := newOverlayEvent(fields, order)
			if err != nil {
				return nil, err
			}
			if ok {
				events = append(events, event)
			}
		}
		slices.SortStableFunc(events, func(x, y overlayEvent) int { return compareEvents(order, x, y) })
		a.ranges = append(a.ranges, events)
	}
	return a, nil
}

// newOverlayEvent reads an event. A limit only says where a database stops looking, and is passed over: ok is false.
func newOverlayEvent(fields map[string]string, order versionOrder) (event overlayEvent, ok bool, err error) {
	if len(fields) != 1 {
		return overlayEvent{}, false, fmt.Errorf("an event of %d fields", len(fields))
	}
	for key, version := range fields {
		event.version = version
		switch key {
		case "introduced":
			event.kind = eventIntroduced
		case "fixed":
			event.kind = eventFixed
		case "last_affected":
			event.kind = eventLastAffected
		case "limit":
			return overlayEvent{}, false, nil
		default:
			return overlayEvent{}, false, fmt.Errorf("an event of kind %s", quoted(key))
		}
	}
	if event.kind == eventIntroduced && event.version == fromTheStart {
		return event, true, nil
	}
	return event, true, checkVersion(order, event.version)
}

// compareEvents orders events by version. At the same version what ends comes before what begins, but for a last affected version,
// which is itself affected.
func compareEvents(order versionOrder, x, y overlayEvent) int {
	xStart, yStart := x.kind == eventIntroduced && x.version == fromTheStart, y.kind == eventIntroduced && y.version == fromTheStart
	switch {
	case xStart && yStart:
		return 0
	case xStart:
		return -1
	case yStart:
		return +1
	}
	c, err := compareVersions(order, x.version, y.version)
	if err != nil { // both were checked to be versions; an order they do not have leaves them as they came
		return 0
	}
	rank := map[eventKind]int{eventFixed: 0, eventIntroduced: 1, eventLastAffected: 2}
	return cmp.Or(c, cmp.Compare(rank[x.kind], rank[y.kind]))
}

// name returns what r is called: its own identifier if that is a CVE number, else the first CVE number among its aliases, else its
// own.
func (r osvRecord) name() string {
	for _, id := range slices.Concat([]string{r.ID}, r.Aliases) {
		if strings.HasPrefix(id, "CVE-") {
			return id
		}
	}
	return r.ID
}

// worst returns the worst of the ratings r states for a package, in a form that is read here: a word, or a vector of CVSS 3.
func (r osvRecord) worst(affected osvAffected) gate.Severity {
	worst := max(r.DatabaseSpecific.severity, affected.DatabaseSpecific.severity, affected.EcosystemSpecific.severity)
	for _, s := range slices.Concat(r.Severity, affected.Severity) {
		worst = max(worst, severityWords[strings.ToLower(s.Score)], severityOfVector(s.Score))
	}
	return worst
}

// overlayFamilies maps the ecosystems of OSV that are distributions to os-release's ID.
var overlayFamilies = map[string]string{
	"Debian": "debian", "Ubuntu": "ubuntu", "Alpine": "alpine", "Wolfi": "wolfi", "Chainguard": "chainguard",
	"Rocky Linux": "rocky", "AlmaLinux": "almalinux",
}

// overlayElsewhere are the ecosystems of OSV no inventory has packages of.
var overlayElsewhere = map[string]bool{
	"": true, "Android": true, "Bioconductor": true, "Bitnami": true, "ConanCenter": true, "CRAN": true, "GHC": true,
	"GitHub Actions": true, "Hackage": true, "Hex": true, "Julia": true, "Kubernetes": true, "Linux": true, "OSS-Fuzz": true,
	"Pub": true, "SwiftURL": true, "VSCode": true, "opam": true,
}

// overlayScope returns under what, and under which spellings, advisories about a package of an OSV ecosystem are kept; an empty
// scope for one that no image can have. Any other ecosystem is refused: an operator who put the record there meant it to count.
func overlayScope(name, pkg string) (scope string, names []string, order versionOrder, err error) {
	family, release, _ := strings.Cut(name, ":")
	if overlayElsewhere[family] {
		return "", nil, "", nil
	}
	for kind, e := range ecosystems {
		if string(e.order) != name {
			continue
		}
		if kind == "pypi" {
			return e.prefix, []string{canonicalPyPIName(pkg)}, e.order, nil
		}
		if kind != "golang" {
			pkg = strings.ToLower(pkg)
		}
		return e.prefix, []string{pkg}, e.order, nil
	}
	d, ok := distributions[overlayFamilies[family]]
	if !ok {
		return "", nil, "", fmt.Errorf("packages of ecosystem %s", quoted(name))
	}
	if release == "" {
		return strings.TrimSpace(d.bucket), []string{pkg}, d.order, nil
	}
	release, _, _ = strings.Cut(strings.TrimPrefix(release, "v"), ":") // "v3.19", "22.04:LTS"
	of, ok := d.release(release)
	if !ok {
		return "", nil, "", fmt.Errorf("packages of ecosystem %s", quoted(name))
	}
	return d.bucket + of, []string{pkg}, d.order, nil
}
