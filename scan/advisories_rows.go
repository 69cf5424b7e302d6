package scan

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Buckets of a trivy-db file that hold no advisories. All others at its root are named for a release, "debian 12", or for an
// ecosystem and a source, "npm::GitHub Security Advisory npm", and hold a bucket for each package, which holds a row for each
// vulnerability.
const (
	vulnerabilityBucket = "vulnerability"
	dataSourceBucket    = "data-source"
	redHatCPEBucket     = "Red Hat CPE"
	cpeNameBucket       = "cpe"
	cpeRepositoryBucket = "repository"
	cpeBuildBucket      = "nvr"
)

// ecosystemSeparator parts the ecosystem from the source in the name of a bucket.
const ecosystemSeparator = "::"

// advisoryIndex is what is read of a database when it is opened.
type advisoryIndex struct {
	// sources maps every bucket of advisories to the identifier of its source, "debian"; empty when the file does not say.
	sources map[string]string
	// ecosystems maps "npm" to the buckets of that ecosystem, sorted.
	ecosystems map[string][]string
	// spellings maps a canonical PyPI name to the other spellings rows are filed under.
	spellings map[string][]string
	// artifacts maps a Java artifact, in lower case, to the names "group:artifact" that rows or records are filed under.
	artifacts map[string][]string
	redHat    redHatProducts
}

func (d *advisoryData) readIndex() error {
	d.index = advisoryIndex{
		sources: map[string]string{}, ecosystems: map[string][]string{}, spellings: map[string][]string{}, artifacts: map[string][]string{},
	}
	return d.view(func(tx *bolt.Tx) error {
		if tx.Bucket([]byte(vulnerabilityBucket)) == nil || tx.Bucket([]byte(dataSourceBucket)) == nil {
			return errors.New("not a vulnerability database: it has no vulnerabilities or no sources")
		}
		err := tx.ForEach(func(name []byte, b *bolt.Bucket) error { return d.index.add(tx, string(name), b) })
		if err != nil {
			return err
		}
		d.index.redHat, err = readRedHatProducts(tx)
		return err
	})
}

// add takes the root bucket b into the index. Buckets come sorted by name.
func (x *advisoryIndex) add(tx *bolt.Tx, name string, b *bolt.Bucket) error {
	switch name {
	case vulnerabilityBucket, dataSourceBucket, redHatCPEBucket:
		return nil
	}
	var source struct{ ID string }
	if text := tx.Bucket([]byte(dataSourceBucket)).Get([]byte(name)); text != nil {
		if err := json.Unmarshal(text, &source); err != nil {
			return fmt.Errorf("reading the source of %q: %w", name, err)
		}
	}
	x.sources[name] = source.ID
	prefix, _, ok := strings.Cut(name, ecosystemSeparator)
	if !ok {
		return nil
	}
	x.ecosystems[prefix] = append(x.ecosystems[prefix], name)
	switch prefix {
	case ecosystems["pypi"].prefix:
		return b.ForEachBucket(func(pkg []byte) error {
			spelling := string(pkg)
			if canonical := canonicalPyPIName(spelling); canonical != spelling && !slices.Contains(x.spellings[canonical], spelling) {
				x.spellings[canonical] = append(x.spellings[canonical], spelling)
			}
			return nil
		})
	case ecosystems["maven"].prefix:
		return b.ForEachBucket(func(pkg []byte) error {
			x.addArtifact(string(pkg))
			return nil
		})
	default:
		return nil
	}
}

// addArtifact remembers that there are advisories about the Java package called name, "group:artifact".
func (x *advisoryIndex) addArtifact(name string) {
	_, artifact, ok := strings.Cut(strings.ToLower(name), ":")
	if ok && !slices.Contains(x.artifacts[artifact], name) {
		x.artifacts[artifact] = append(x.artifacts[artifact], name)
	}
}

// row is one advisory about one package, in any of the shapes trivy-db stores. Its list of operating systems, which Go's advisories
// have, is not read: an inventory does not say for sure what an image runs on.
type row struct {
	FixedVersion    string
	AffectedVersion string
	Status          int
	Severity        int
	Arches          []string

	VulnerableVersions []string
	PatchedVersions    []string
	UnaffectedVersions []string

	// Entries, where there are any, say what differs by architecture or product; FixedVersion is then a leftover.
	Entries []rowEntry
}

// rowEntry is an advisory for some architectures (none named: all) or Red Hat products.
type rowEntry struct {
	FixedVersion string
	Status       int
	Severity     int
	Arches       []string
	// Affected are the numbers of the CPEs of the products concerned.
	Affected []int
	// Cves is set by Red Hat alone: the vulnerabilities of an erratum, with their severities for this product.
	Cves []struct {
		ID       string
		Severity int
	}
}

// entries returns what r says, as entries.
func (r row) entries() []rowEntry {
	if len(r.Entries) > 0 {
		return r.Entries
	}
	return []rowEntry{{FixedVersion: r.FixedVersion, Status: r.Status, Severity: r.Severity, Arches: r.Arches}}
}

// forEachRow calls f with the rows about pkg in bucket, in the order of their identifiers.
func forEachRow(tx *bolt.Tx, bucket, pkg string, f func(id string, r row) error) error {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	b = b.Bucket([]byte(pkg))
	if b == nil {
		return nil
	}
	return b.ForEach(func(id, text []byte) error {
		if len(text) == 0 {
			return nil
		}
		var r row
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("reading %s of %q in %q: %w", id, pkg, bucket, err)
		}
		return f(string(id), r)
	})
}

// vulnerability is what a database says of a vulnerability itself, whatever package it is in.
type vulnerability struct {
	Title          string
	Severity       string
	VendorSeverity map[string]int
	CVSS           map[string]rating
	PublishedDate  time.Time
}

// rating is what a source says by the Common Vulnerability Scoring System, in up to two of its versions.
type rating struct {
	V3Vector, V40Vector string
	V3Score, V40Score   float64
}

// readVulnerability returns what is known of id, the zero value if nothing is.
func readVulnerability(tx *bolt.Tx, id string) (v vulnerability, err error) {
	text := tx.Bucket([]byte(vulnerabilityBucket)).Get([]byte(id))
	if text == nil {
		return vulnerability{}, nil
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return vulnerability{}, fmt.Errorf("reading vulnerability %s: %w", id, err)
	}
	return v, nil
}

// sourceAliases names the source that rates for another: Red Hat's errata come from feeds of their own, its ratings from one.
var sourceAliases = map[string]string{"redhat-oval": "redhat", "redhat-csaf-vex": "redhat"}

// severity returns how bad v is for a row of source that says own of itself. The first of these that rates it counts: the row, which
// knows the package; the source, which knows its distribution; GitHub's reviewers; NVD; whatever the database took for a default.
func (v vulnerability) severity(own int, source string) gate.Severity {
	rated := v.VendorSeverity
	for _, rating := range []int{own, rated[source], rated[sourceAliases[source]], rated["ghsa"], rated["nvd"]} {
		if s := gate.Severity(rating); s > gate.Unrated && s <= gate.Critical { // both count from unknown to critical
			return s
		}
	}
	return severityWords[strings.ToLower(v.Severity)]
}

// cvss returns the vector and score of the first of source, GitHub's reviewers and NVD that has one, in version 3, by which
// everything is rated, else in version 4.
func (v vulnerability) cvss(source string) (vector string, score float64) {
	for _, id := range []string{source, sourceAliases[source], "ghsa", "nvd"} {
		switch r := v.CVSS[id]; {
		case r.V3Vector != "" && len(r.V3Vector) <= maxVectorBytes:
			return r.V3Vector, r.V3Score
		case r.V40Vector != "" && len(r.V40Vector) <= maxVectorBytes:
			return r.V40Vector, r.V40Score
		}
	}
	return "", 0
}

// maxVectorBytes is above the longest vector of CVSS 4 with every metric.
const maxVectorBytes = 256

// severityWords are the words sources rate with.
var severityWords = map[string]gate.Severity{
	"negligible": gate.Low, "unimportant": gate.Low, "low": gate.Low,
	"moderate": gate.Medium, "medium": gate.Medium,
	"important": gate.High, "high": gate.High,
	"critical": gate.Critical,
}

// statusWords are trivy-db's numbers for what becomes of a vulnerability without a fix.
var statusWords = [...]string{"", "not_affected", "affected", "fixed", "under_investigation", "will_not_fix", "fix_deferred", "end_of_life"}

const statusNotAffected = 1

func statusWord(status int) string {
	if status < 0 || status >= len(statusWords) {
		return ""
	}
	return statusWords[status]
}
