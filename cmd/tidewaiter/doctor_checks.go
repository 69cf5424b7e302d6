package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"

	"github.com/tidewaiter/tidewaiter/cache"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/malware"
	"github.com/tidewaiter/tidewaiter/policy"
	"github.com/tidewaiter/tidewaiter/scan"
	"github.com/tidewaiter/tidewaiter/signing"
)

// correctIt is what to do about a configuration that serve refuses.
const correctIt = "correct it; configs/tidewaiter.yaml explains every key, and the proxy does not start before"

// doctor checks the installation of a configuration. It opens what serve opens, by the same means, and never what would put something in
// order on opening: the gate, the quarantine, the folder of advisories.
type doctor struct {
	config *config
	// file is where the configuration is from, empty for the defaults; problems is what is wrong with it as it is written.
	file     string
	problems []error
	now      func() time.Time

	mu     sync.Mutex
	clocks []reading // guarded by mu; of others
}

// rounds returns the checks there are. The clock is compared with what those before it have heard.
func (d *doctor) rounds() [][]check {
	c := d.config
	checks := []check{
		{"configuration", checkTimeout, d.checkConfiguration},
		{"policies", checkTimeout, d.checkPolicies},
		{"keys", checkTimeout, d.checkKeys},
		{"listeners", checkTimeout, d.checkListeners},
		{"storage", checkTimeout, d.checkStorage},
	}
	if c.Redis.URL != "" {
		checks = append(checks, check{"redis", checkTimeout, d.checkRedis})
	}
	checks = append(checks, d.checkUpstreams()...)
	checks = append(checks, check{"advisories", databaseTimeout, d.checkAdvisories}, check{"sandbox", checkTimeout, d.checkSandbox})
	if c.Malware.Clamd != "" {
		checks = append(checks, check{"clamd", checkTimeout, d.checkClamd})
	}
	if c.Statements.on() {
		checks = append(checks, check{"statements", checkTimeout, d.checkStatements})
	}
	return [][]check{checks, {{"clock", checkTimeout, d.checkClock}}}
}

func (d *doctor) checkConfiguration(context.Context) []diagnosis {
	var found []diagnosis
	for _, p := range d.problems {
		found = append(found, misconfigured(correctIt, "%s", inOneLine(p)))
	}
	if len(found) == 0 {
		found = append(found, well("%s can be used", cmp.Or(d.file, "what the defaults and the environment make")))
	}
	for _, option := range d.config.unsafe() {
		found = append(found, doubt("do without it where that is possible", "%s is on", option))
	}
	return found
}

// checkPolicies compiles policies and trust files, and sees whether they fit each other and this installation.
func (d *doctor) checkPolicies(context.Context) []diagnosis {
	const do = "correct them; \"tidewaiter policy check\" has the lines"
	set, policyErr := policy.Load(d.config.PolicyFiles, d.now())
	roots, trustErr := policy.LoadTrust(d.config.TrustFiles)
	if policyErr == nil && trustErr == nil {
		policyErr = errors.Join(policy.CheckAuthorities(set, roots), d.config.checkMalware(set))
	}
	if trustErr == nil {
		trustErr = signing.CheckRoots(roots)
	}
	var found []diagnosis
	if policyErr != nil {
		found = append(found, misconfigured(do, "%s", inOneLine(policyErr)))
	}
	if trustErr != nil {
		trust := misconfigured("correct the files of trust_files", "%s", inOneLine(trustErr))
		trust.Check = "trust"
		found = append(found, trust)
	}
	if len(found) > 0 {
		return found
	}
	return []diagnosis{well("%d policies and %d waivers, revision %s; %d authorities", len(set.Policies), len(set.Waivers), set.Revision, len(roots.Authorities))}
}

// checkStorage writes something, reads it back, and removes it. A folder that is not there is not made: whoever runs this may be another
// than the one who serves.
func (d *doctor) checkStorage(ctx context.Context) []diagnosis {
	s, err := d.config.openStorage(ctx)
	if err != nil {
		return []diagnosis{misconfigured(correctIt, "%s", inOneLine(err))}
	}
	const do = "see that whoever serves may write there, and that there is room"
	where, path := "the bucket", "/tidewaiter/doctor-"+rand.Text()
	if s.root != "" {
		where, path = s.root, "/doctor-"+rand.Text() // no folder comes to be on the way
		if _, err := os.Stat(s.root); errors.Is(err, fs.ErrNotExist) {
			return []diagnosis{doubt("nothing, if it never served: it makes it then", "%s is not there yet", s.root)}
		} else if err != nil {
			return []diagnosis{fail(do, "%v", err)}
		}
	}
	if err := tryStorage(ctx, s.driver, path); err != nil {
		return []diagnosis{fail(do, "%s: %s", where, inOneLine(err))}
	}
	found := []diagnosis{well("%s takes, gives back and removes what is put there", where)}
	if s.root == "" {
		found = append(found, checkLocal(s.local))
	}
	return found
}

// checkLocal sees whether the folder takes files that what arrives on its way to a bucket goes through.
func checkLocal(local string) diagnosis {
	err := tryWriting(local)
	var d diagnosis
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d = doubt("nothing, if it never served: it makes it then", "%s is not there yet", local)
	case err != nil:
		d = fail("see that whoever serves may write there, and that there is room", "%v", err)
	default:
		d = well("%s takes files", local)
	}
	d.Check = "storage.local"
	return d
}

// tryStorage finds out whether a driver does all that is asked of it with one small object, of which nothing stays.
func tryStorage(ctx context.Context, driver storagedriver.StorageDriver, path string) (err error) {
	content := []byte("tidewaiter doctor " + rand.Text())
	if err := driver.PutContent(ctx, path, content); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryTimeout)
		defer cancel()
		if removeErr := driver.Delete(ctx, path); removeErr != nil && err == nil {
			err = fmt.Errorf("removing what was written: %w", removeErr)
		}
	}()
	back, err := driver.GetContent(ctx, path)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if !bytes.Equal(back, content) {
		return errors.New("reading back: it holds something else than was written")
	}
	return nil
}

func (d *doctor) checkRedis(ctx context.Context) []diagnosis {
	key, err := loadSealKey(d.config)
	if err != nil {
		return []diagnosis{misconfigured("see to redis.seal_key_file", "%s", inOneLine(err))}
	}
	verdicts, err := cache.New(cache.Options{RedisURL: d.config.Redis.URL, Key: key, Now: d.now})
	if err != nil {
		return []diagnosis{misconfigured(correctIt, "%s", inOneLine(err))}
	}
	defer func() { _ = verdicts.Close() }() // it has been asked already
	p, err := verdicts.Ping(ctx)
	if err != nil {
		return []diagnosis{fail("see that it runs, that redis.url is right, and that it takes writes; without it every replica works for itself", "%s", inOneLine(err))}
	}
	d.read(reading{"Redis", p.Time, p.At})
	if p.Foreign > 0 {
		return []diagnosis{doubt("give every replica the same redis.seal_key_file; after a change of it, wait for what is there to lapse",
			"it answers, and %d of %d verdicts there are sealed by another key", p.Foreign, p.Verdicts)}
	}
	return []diagnosis{well("it answers, keeps what is put there and forgets it in time; %d verdicts there are sealed by our key", p.Verdicts)}
}

// checkAdvisories reads the whole database, as the gate does. It leaves the folder as it is, also where serve would go back to the
// database before.
func (d *doctor) checkAdvisories(ctx context.Context) []diagnosis {
	c := d.config.Advisories
	path, err := d.config.advisoryPath()
	if err != nil {
		return []diagnosis{fail("", "%v", err)}
	}
	data, err := scan.AwaitAdvisories(ctx, path, c.MaxAge, d.now)
	if err != nil {
		return []diagnosis{fail("\"tidewaiter advisories update\" or import brings another, rollback the one before", "%s", inOneLine(err))}
	}
	defer func() { _ = data.Close() }() // it was only read
	s := data.Snapshot()
	const fetch = "\"tidewaiter advisories update\" fetches it, import takes it from a file"
	if s.ID == "" {
		found := fmt.Sprintf("there is no data in %s", path)
		if set, err := policy.Load(d.config.PolicyFiles, d.now()); err == nil && !asksForVulnerabilities(set) {
			return []diagnosis{doubt(fetch, "%s, and no policy asks for it", found)}
		}
		return []diagnosis{fail(fetch, "%s: policies that ask for vulnerabilities deny every image", found)}
	}
	age := d.now().Sub(s.UpdatedAt).Round(time.Minute)
	switch {
	case !s.Until.IsZero() && !d.now().Before(s.Until):
		return []diagnosis{fail(fetch, "built %s ago, and advisories.max_age is %s: that is a gap, which denies", age, c.MaxAge)}
	case c.MaxAge > 0 && age > c.MaxAge-c.MaxAge/advisoryNotice:
		return []diagnosis{doubt(fetch, "built %s ago: it is too old in %s", age, s.Until.Sub(d.now()).Round(time.Minute))}
	}
	return []diagnosis{well("built %s ago, %s", age, s.ID)}
}

// advisoryNotice is the part of advisories.max_age, at its end, in which that is near: whoever refreshes has failed for long by then.
const advisoryNotice = 4

func asksForVulnerabilities(set *gate.PolicySet) bool {
	for _, p := range set.Policies {
		if p.Vulnerabilities != nil {
			return true
		}
	}
	return false
}

// checkSandbox starts what reads layers, which finds out itself what confines it.
func (d *doctor) checkSandbox(context.Context) []diagnosis {
	dir, err := os.MkdirTemp(d.config.localRoot(), ".doctor-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
	} else {
		dir = "" // the storage's trouble is told elsewhere
	}
	layers, err := scan.NewLayers(scan.Options{Workers: 1, TempDir: dir, UnsafeUnsandboxed: true})
	if err != nil {
		return []diagnosis{fail("see that the program may start itself again, and has memory", "%s", inOneLine(err))}
	}
	defer func() { _ = layers.Close() }() // nothing was read
	return []diagnosis{diagnoseSandbox(layers.Confined(), layers.Sandbox(), d.config.Gate.UnsafeUnsandboxedScan)}
}

// diagnoseSandbox says what it means that nothing, or something, is missing of what confines those who read layers.
func diagnoseSandbox(confined bool, sandbox string, unsafe bool) diagnosis {
	const do = "use a kernel with landlock and seccomp, and see that the container runtime allows them"
	switch {
	case confined:
		return well("what reads layers is confined by %s", sandbox)
	case unsafe:
		return doubt(do, "what reads layers is confined by %s", sandbox)
	}
	return fail(do, "what reads layers would be confined by %s, so the proxy does not start", sandbox)
}

// clamdNotice is how old signatures of malware may be: they are published daily.
const clamdNotice = 7 * 24 * time.Hour

func (d *doctor) checkClamd(ctx context.Context) []diagnosis {
	c := d.config.Malware
	clamd, err := malware.New(malware.Options{Address: c.Clamd, MaxFileBytes: int64(c.MaxFileBytes), Now: d.now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return []diagnosis{misconfigured(correctIt, "%s", inOneLine(err))}
	}
	database, err := clamd.Ping(ctx)
	if err != nil {
		return []diagnosis{fail("see that clamd runs, and listens where malware.clamd says", "%s", inOneLine(err))}
	}
	if fields := strings.Split(database, "/"); len(fields) == 3 { // clamd without official signatures tells no date
		built, err := time.Parse(time.ANSIC, fields[2])
		if age := d.now().Sub(built); err == nil && age > clamdNotice {
			return []diagnosis{doubt("see that freshclam runs", "%s: its signatures are %s old", database, age.Round(time.Hour))}
		}
	}
	return []diagnosis{well("%s", database)}
}

// inOneLine returns what an error says, its lines one after the other, without those that are empty.
func inOneLine(err error) string {
	lines := slices.DeleteFunc(strings.Split(err.Error(), "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
	return strings.ReplaceAll(strings.Join(lines, "; "), ":; ", ": ")
}
