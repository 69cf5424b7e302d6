package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/advisories"
	"github.com/tidewaiter/tidewaiter/cache"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/policy"
	"github.com/tidewaiter/tidewaiter/seal"
	"github.com/tidewaiter/tidewaiter/signing"
	"github.com/tidewaiter/tidewaiter/tracing"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// config is the configuration file. configs/tidewaiter.yaml says what each key means; keys that this version knows but cannot act on
// are refused when they are set, never ignored.
type config struct {
	Listen          listenConfig
	Storage         storageConfig
	Redis           redisConfig
	Upstreams       []upstreamConfig
	DefaultUpstream string `mapstructure:"default_upstream"`
	Hosted          []hostedConfig
	PolicyFiles     []string `mapstructure:"policy_files"`
	TrustFiles      []string `mapstructure:"trust_files"`
	Advisories      advisoriesConfig
	Gate            gateConfig
	Malware         malwareConfig
	Rejudge         rejudgeConfig
	Ledger          ledgerConfig
	Access          accessConfig
	Statements      statementsConfig
	Audit           struct{ Path string }
	Trail           struct{ Keep time.Duration }
	Review          reviewConfig
	Webhooks        []webhookConfig
	Tracing         tracingConfig
	Log             struct{ Level, Format string }
}

type listenConfig struct {
	Registry string
	Names    []string
	Admin    string
	AdminURL string `mapstructure:"admin_url"`
	TLS      struct {
		Cert, Key string
		ClientCA  string `mapstructure:"client_ca"`
	}
	UnsafePlaintext bool `mapstructure:"unsafe_plaintext"`
}

type storageConfig struct {
	Filesystem      struct{ Root string }
	MaxBytes        bytesSize     `mapstructure:"max_bytes"`
	MinIdle         time.Duration `mapstructure:"min_idle"`
	S3              map[string]any
	Local           string
	UnsafePlaintext bool `mapstructure:"unsafe_plaintext"`
	GCS             map[string]any
	Azure           map[string]any
}

type redisConfig struct {
	URL         string
	SealKeyFile string `mapstructure:"seal_key_file"`
}

type upstreamConfig struct {
	Host                   string
	URL                    string
	Realms                 []string
	Credentials            credentialsConfig
	CAFile                 string `mapstructure:"ca_file"`
	Allow                  []string
	Deny                   []string
	TagTTL                 *time.Duration `mapstructure:"tag_ttl"`
	StaleTagsFor           time.Duration  `mapstructure:"stale_tags_for"`
	Mirrors                []string
	UnsafePrivateAddresses bool   `mapstructure:"unsafe_private_addresses"`
	SignaturesIn           string `mapstructure:"signatures_in"`
}

type hostedConfig struct {
	Repositories []string
	ForwardTo    string `mapstructure:"forward_to"`
	Tags         string
	Pending      *time.Duration
}

type advisoriesConfig struct {
	Source  string
	Path    string
	Refresh time.Duration
	MaxAge  time.Duration `mapstructure:"max_age"`
}

type gateConfig struct {
	Hold                  time.Duration
	Platforms             []string
	MaxImageBytes         bytesSize `mapstructure:"max_image_bytes"`
	Workers               int
	UnsafeUnsandboxedScan bool          `mapstructure:"unsafe_unsandboxed_scan"`
	RecheckSignatures     time.Duration `mapstructure:"recheck_signatures"`
}

// defaults are the values of keys that are not written.
func defaults() map[string]any {
	return map[string]any{
		"listen.registry": "127.0.0.1:5000", "listen.names": []string{}, "listen.admin": "127.0.0.1:5001", "listen.admin_url": "",
		"listen.tls.cert": "", "listen.tls.key": "", "listen.tls.client_ca": "", "listen.unsafe_plaintext": false,
		"storage.filesystem.root": "./tidewaiter-data", "storage.max_bytes": "0", "storage.min_idle": "2m", "storage.local": "", "storage.unsafe_plaintext": false,
		"redis.url": "", "redis.seal_key_file": "",
		"default_upstream": "docker.io", "policy_files": []string{}, "trust_files": []string{},
		"advisories.source": "", "advisories.path": "", "advisories.refresh": "6h", "advisories.max_age": "72h",
		"gate.hold": "55s", "gate.platforms": []string{"linux/amd64", "linux/arm64"}, "gate.max_image_bytes": "20GiB",
		"malware.clamd": "", "malware.max_age": "24h", "malware.max_file_bytes": "25MiB",
		"gate.workers": 0, "gate.unsafe_unsandboxed_scan": false, "gate.recheck_signatures": "12h",
		"rejudge.workers": 0, "rejudge.per_second": 500, "ledger.keep_repeated": "24h",
		"access.unsafe_anonymous_push": false, "access.basic.htpasswd_file": "",
		"access.tokens.key_file": "", "access.tokens.ttl": "15m", "access.tokens.realm": "", "access.tokens.robots_file": "",
		"statements.key_file": "", "statements.kms": "", "statements.verifier": "", "statements.failures": false,
		"audit.path": "", "trail.keep": "2160h", "review.second_approver": false, "review.warn_before": "72h",
		"tracing.endpoint": "", "tracing.sample_ratio": 1.0, "tracing.follow_clients": false, "log.level": "info", "log.format": "json",
	}
}

// loadConfig reads file, or nothing when it is empty, lets the environment override keys, and checks the result. All problems are
// reported at once.
func loadConfig(file string) (*config, error) { return checked(readConfig(file, true)) }

// loadConfigFile is loadConfig without the environment.
func loadConfigFile(file string) (*config, error) { return checked(readConfig(file, false)) }

// loadInstallation is loadConfig, and reports what is wrong with the files and upstreams the configuration names along with it.
func loadInstallation(file string) (*config, error) {
	c, problems := readConfig(file, true)
	if c != nil {
		problems = append(problems, c.installationProblems()...)
	}
	return checked(c, problems)
}

// checked returns c if there is nothing wrong with it.
func checked(c *config, problems []error) (*config, error) {
	if len(problems) > 0 {
		return nil, usageError(fmt.Errorf("the configuration cannot be used:\n%w", errors.Join(problems...)))
	}
	return c, nil
}

// environment returns a variable that others have named, and that is no key of the configuration; empty for none.
func environment(name string) string {
	v := viper.New()
	_ = v.BindEnv(name, name) // it fails for want of a name alone
	return v.GetString(name)
}

// readConfig reads file and, if overridden, the environment. The config is nil when there is nothing in it to be checked further.
func readConfig(file string, overridden bool) (*config, []error) {
	v := viper.New()
	for key, value := range defaults() {
		v.SetDefault(key, value)
	}
	if overridden {
		v.SetEnvPrefix("TIDEWAITER")
		v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
		v.AutomaticEnv()
	}
	if file != "" {
		v.SetConfigFile(file)
		v.SetConfigType("yaml")
		if err := v.ReadInConfig(); err != nil {
			return nil, []error{fmt.Errorf("reading the configuration: %w", err)}
		}
	}
	source := cmp.Or(file, "the environment")
	var c config
	hooks := viper.DecodeHook(mapstructure.ComposeDecodeHookFunc(decodeSize, mapstructure.StringToTimeDurationHookFunc(), mapstructure.StringToSliceHookFunc(",")))
	if err := v.Unmarshal(&c, hooks); err != nil { // checking the rest would find fault with values nobody wrote
		return nil, []error{fmt.Errorf("%s: %w", source, err)}
	}
	problems := c.problems()
	if err := v.UnmarshalExact(&config{}, hooks); err != nil { // which can only be for keys there are not
		problems = append(problems, fmt.Errorf("%s: %w", source, err))
	}
	if c.Storage.S3 != nil && v.InConfig("storage.filesystem") {
		problems = append(problems, errors.New("storage has filesystem and s3: things are kept in one place"))
	}
	if v.InConfig("upstreams") && len(c.Upstreams) == 0 {
		problems = append(problems, errors.New("upstreams is written and names none; leave the key out for the well-known registries"))
	}
	if c.Gate.Workers == 0 {
		c.Gate.Workers = runtime.GOMAXPROCS(0)
	}
	return &c, problems
}

// problems returns everything that is wrong with c as far as c alone can tell.
func (c *config) problems() []error {
	var found []error
	problem := func(bad bool, format string, args ...any) {
		if bad {
			found = append(found, fmt.Errorf(format, args...))
		}
	}
	for key, set := range c.unsupported() {
		problem(set, "%s is not supported by this version", key)
	}
	problem((c.Listen.TLS.Cert == "") != (c.Listen.TLS.Key == ""), "listen.tls needs both cert and key")
	problem(c.Listen.TLS.ClientCA != "" && c.Listen.TLS.Cert == "", "listen.tls.client_ca needs cert and key")
	for key, address := range map[string]string{"listen.registry": c.Listen.Registry, "listen.admin": c.Listen.Admin} {
		_, port, err := net.SplitHostPort(address)
		problem(err != nil, "%s: %q is not host:port", key, address)
		_, portErr := strconv.ParseUint(port, 10, 16)
		problem(err == nil && portErr != nil, "%s: %q is not a port", key, port)
		exposed := err == nil && !isLoopback(address)
		problem(exposed && c.Listen.TLS.Cert == "" && !c.Listen.UnsafePlaintext, "%s: %s is not loopback, so it needs listen.tls or listen.unsafe_plaintext: true", key, address)
	}
	problem(c.Listen.AdminURL != "" && !isWebURL(c.Listen.AdminURL), "listen.admin_url: %q is not an http or https URL", c.Listen.AdminURL)
	found = append(found, c.accessProblems()...)
	problem(c.Storage.MinIdle < 0, "storage.min_idle must not be negative")
	found = append(found, c.reviewProblems()...)
	found = append(found, c.storageProblems()...)
	problem(c.Redis.URL != "" && c.Redis.SealKeyFile == "", "redis.url needs redis.seal_key_file")
	problem(c.Redis.URL != "" && !isRedisURL(c.Redis.URL), "redis.url is not redis://, rediss:// or unix://") // not shown: it may hold a password
	problem(!oci.ValidHost(c.DefaultUpstream), "default_upstream: %q is not a host", c.DefaultUpstream)
	problem(c.Trail.Keep < minTrail, "trail.keep is less than %s", minTrail)
	problem(c.Gate.Hold <= 0, "gate.hold must be positive")
	problem(c.Gate.RecheckSignatures < 0, "gate.recheck_signatures must not be negative")
	problem(c.Gate.Workers < 0, "gate.workers must not be negative")
	if c.Advisories.Source != "" {
		_, err := advisories.ParseSource(c.Advisories.Source)
		problem(err != nil, "advisories.source: %v", err)
	}
	problem(c.Advisories.MaxAge < 0, "advisories.max_age must not be negative")
	problem(c.Advisories.Refresh < 0, "advisories.refresh must not be negative")
	for _, p := range c.Gate.Platforms {
		parsed, err := parsePlatform(p)
		problem(err != nil || parsed.variant != "", "gate.platforms: %q is not os/architecture", p)
	}
	problem(!slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level), "log.level: %q is not debug, info, warn or error", c.Log.Level)
	problem(!slices.Contains([]string{"json", "text"}, c.Log.Format), "log.format: %q is neither json nor text", c.Log.Format)
	_, hostedProblems := c.hostedRules()
	found = append(found, hostedProblems...)
	found = append(found, c.malwareProblems()...)
	found = append(found, c.Statements.problems()...)
	found = append(found, c.Rejudge.problems()...)
	found = append(found, c.Ledger.problems()...)
	found = append(found, c.webhookProblems()...)
	if err := tracing.Check(c.tracing()); err != nil {
		found = append(found, fmt.Errorf("tracing.%w", err))
	}
	slices.SortFunc(found, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return found
}

// installationProblems returns what is wrong with what the configuration names: files, upstreams, Redis. It opens nothing for longer
// than it takes to look, so that everything can be told at once and before anything is written.
func (c *config) installationProblems() []error {
	var found []error
	note := func(err error) {
		if err != nil {
			found = append(found, err)
		}
	}
	set, policyErr := policy.Load(c.PolicyFiles, time.Now())
	note(policyErr)
	if policyErr == nil {
		note(c.checkMalware(set))
	}
	roots, trustErr := policy.LoadTrust(c.TrustFiles)
	note(trustErr)
	if trustErr == nil {
		note(signing.CheckRoots(roots))
	}
	if policyErr == nil && trustErr == nil {
		note(policy.CheckAuthorities(set, roots))
	}
	note(access.CheckFiles(c.access()))
	if c.Statements.KeyFile != "" {
		_, _, err := c.Statements.key()
		note(err)
	}
	note(c.checkWebhookFiles())
	if c.Listen.TLS.ClientCA != "" {
		_, err := readClientCAs(c.Listen.TLS.ClientCA)
		note(err)
	}
	dialled, err := c.dialled()
	note(err)
	upstreams, err := upstream.New(dialled, upstream.Options{})
	note(err)
	upstreamsAreSound := err == nil // else what is wrong with the one of the advisories has been said
	if upstreamsAreSound {
		upstreams.Close()
	}
	if c.Redis.SealKeyFile != "" {
		key, err := seal.LoadKey(c.Redis.SealKeyFile)
		note(err)
		if err == nil && c.Redis.URL != "" {
			verdicts, err := cache.New(cache.Options{RedisURL: c.Redis.URL, Key: key}) // which connects to nothing yet
			note(err)
			if err == nil {
				note(verdicts.Close())
			}
		}
	}
	switch {
	case c.Advisories.Source != "":
		_, err := c.advisoryFolder()
		note(err)
		if registries, _, err := c.advisorySource(upstream.Options{}); err == nil {
			registries.Close()
		} else if upstreamsAreSound {
			note(err)
		}
	case c.Advisories.Path != "":
		_, err := os.Stat(c.Advisories.Path)
		note(err)
	}
	return found
}

// unsupported maps the keys this version cannot act on to whether they are set.
func (c *config) unsupported() map[string]bool {
	return map[string]bool{
		"storage.gcs": c.Storage.GCS != nil, "storage.azure": c.Storage.Azure != nil,
	}
}

// upstreams returns the upstreams to pull from: those configured, or the well-known ones.
func (c *config) upstreams() []upstream.Config {
	if len(c.Upstreams) == 0 {
		return upstream.Defaults()
	}
	var all []upstream.Config
	for _, u := range c.Upstreams {
		ttl := upstream.DefaultTagTTL
		if u.TagTTL != nil {
			ttl = *u.TagTTL
		}
		all = append(all, upstream.Config{
			Host: u.Host, URL: u.URL, Realms: u.Realms, Username: u.Credentials.Username, PasswordFile: u.Credentials.PasswordFile,
			CAFile: u.CAFile, Allow: u.Allow, Deny: u.Deny, TagTTL: ttl, StaleTagsFor: u.StaleTagsFor, Mirrors: u.Mirrors,
			UnsafePrivateAddresses: u.UnsafePrivateAddresses, SignaturesIn: u.SignaturesIn,
		})
	}
	return all
}

// unsafe returns the unsafe options that are on, for the log.
func (c *config) unsafe() []string {
	var on []string
	if c.Listen.UnsafePlaintext {
		on = append(on, "listen.unsafe_plaintext")
	}
	if c.Storage.UnsafePlaintext {
		on = append(on, "storage.unsafe_plaintext")
	}
	if c.Access.UnsafeAnonymousPush {
		on = append(on, "access.unsafe_anonymous_push")
	}
	if c.Gate.UnsafeUnsandboxedScan {
		on = append(on, "gate.unsafe_unsandboxed_scan")
	}
	for _, u := range c.Upstreams {
		if u.UnsafePrivateAddresses {
			on = append(on, "unsafe_private_addresses of "+u.Host)
		}
	}
	return append(on, c.unsafeWebhooks()...)
}

func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}

func isRedisURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme)
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// bytesSize is a number of bytes, written as a number or with a unit: "20GiB".
type bytesSize int64

func decodeSize(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[bytesSize]() {
		return data, nil
	}
	n, err := policy.ParseBytes(fmt.Sprint(data))
	return bytesSize(n), err
}
