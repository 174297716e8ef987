"""The example products of a fresh marketplace, in the order in which they are featured.

The providers are examples too, and say so in their names.
"""

from typing import NamedTuple

from contracts.catalog import FieldKind, Meter, MeterTier, ProductField

NORTH = "Example Cloud North"
METAL = "Sample Metal Hosting"
NODES = "Demo Node Cooperative"
EDGE = "Example Edge Networks"
APPS = "Sample Application Store"
VAULT = "Demo Storage Vault"
CARE = "Example Engineering Services"

IMAGE = ProductField(
    key="image",
    label="Image",
    kind=FieldKind.CHOICE,
    choices=["Debian 12", "Ubuntu 24.04", "Alpine 3.20"],
    help="The system that is installed. Debian 12, unless you choose another one.",
)


def _region(*places: str) -> ProductField:
    return ProductField(
        key="region",
        label="Region",
        kind=FieldKind.CHOICE,
        choices=list(places),
        help=f"Where it runs. {places[0]}, unless you choose another one.",
    )


NORTH_REGION = _region("Ghent, Belgium", "Vienna, Austria")
METAL_REGION = _region("Falkenstein, Germany", "Oslo, Norway")
HOST_NAME = ProductField(
    key="host_name",
    label="Host name",
    kind=FieldKind.TEXT,
    length_max=63,
    help="What the machine calls itself.",
)
SSH_KEY = ProductField(
    key="ssh_key",
    label="SSH public key",
    kind=FieldKind.SSH_KEY,
    help="The line in id_ed25519.pub or a file like it. Without one you log in on the console.",
)
DOMAIN = ProductField(
    key="domain",
    label="Domain",
    kind=FieldKind.TEXT,
    is_required=True,
    length_max=253,
    help="Where it is to be found, such as git.example.org. It needs to be yours.",
)


CENT_MICROS = 10_000

TRANSFER = Meter(
    key="transfer",
    label="Transfer",
    unit="GB",
    price_micros=2 * CENT_MICROS,
    included_units=1_000,
    tiers=[MeterTier(above_units=10_000, price_micros=CENT_MICROS)],
)
PAGE_VIEWS = Meter(
    key="page_views",
    label="Page views",
    unit="views",
    price_micros=50 * CENT_MICROS,
    per_units=10_000,
    included_units=100_000,
)
RESTORES = Meter(key="restores", label="Restored data", unit="GB", price_micros=CENT_MICROS)


class ExampleProduct(NamedTuple):
    """``price_usd`` is in dollars per ``period`` ("month", or "once"); no ``stock``, no end."""

    slug: str
    name: str
    category: str
    provider: str
    location: str | None
    price_usd: str
    period: str
    summary: str
    description: str
    specification: dict[str, str]
    stock: int | None = None
    fields: tuple[ProductField, ...] = ()
    family: str | None = None
    meters: tuple[Meter, ...] = ()


COMPUTE = [
    ExampleProduct(
        "vm-starter",
        "VM-Starter",
        "compute",
        NORTH,
        "Ghent, Belgium",
        "5.00",
        "month",
        "A small virtual machine for a first site, a bot or a test bench.",
        "One shared core and enough memory for a web server with a small database. Comes with"
        " a public IPv6 address, a firewall and a snapshot every week. Grow to a larger size"
        " at any time; the disk moves with you.",
        {
            "vCPU": "1 shared",
            "Memory": "2 GB",
            "Disk": "25 GB NVMe",
            "Transfer": "1 TB a month",
            "Network": "IPv6, IPv4 through a gateway",
            "Images": "Debian, Ubuntu, Alpine",
        },
        fields=(IMAGE, NORTH_REGION, HOST_NAME, SSH_KEY),
        family="north-vm",
    ),
    ExampleProduct(
        "vm-production",
        "VM-Production",
        "compute",
        NORTH,
        "Ghent, Belgium",
        "15.00",
        "month",
        "Two dedicated cores for services that people rely on, with daily backups.",
        "Dedicated cores, so that a busy neighbour never slows you down. A backup every night,"
        " kept for seven days, and a private network between your machines at no charge.",
        {
            "vCPU": "2 dedicated",
            "Memory": "8 GB",
            "Disk": "80 GB NVMe",
            "Transfer": "4 TB a month",
            "Backups": "daily, 7 kept",
            "Availability": "99.95 %",
        },
        fields=(IMAGE, NORTH_REGION, HOST_NAME, SSH_KEY),
        family="north-vm",
    ),
    ExampleProduct(
        "vm-memory",
        "VM-Memory",
        "compute",
        NORTH,
        "Ghent, Belgium",
        "32.00",
        "month",
        "Plenty of memory for caches, search indexes and in-memory databases.",
        "Four cores beside 32 GB of memory with error correction. Huge pages are switched on,"
        " swap is off, and the disk keeps up with a full dump in under a minute.",
        {
            "vCPU": "4 dedicated",
            "Memory": "32 GB ECC",
            "Disk": "120 GB NVMe",
            "Transfer": "5 TB a month",
            "Backups": "daily, 7 kept",
        },
        fields=(IMAGE, NORTH_REGION, HOST_NAME, SSH_KEY),
        family="north-vm",
    ),
    ExampleProduct(
        "vm-builder",
        "VM-Builder",
        "compute",
        METAL,
        "Falkenstein, Germany",
        "24.00",
        "month",
        "Eight fast cores for compilers, test runners and batch jobs.",
        "High clock speed and a scratch disk that is erased at every boot. Nested"
        " virtualisation is allowed, so that containers and emulators run as they do at home.",
        {
            "vCPU": "8 shared, 4.5 GHz",
            "Memory": "16 GB",
            "Disk": "160 GB NVMe, scratch",
            "Transfer": "3 TB a month",
            "Nested virtualisation": "yes",
        },
        fields=(IMAGE, METAL_REGION, HOST_NAME, SSH_KEY),
    ),
    ExampleProduct(
        "gpu-notebook",
        "GPU-Notebook",
        "compute",
        METAL,
        "Oslo, Norway",
        "89.00",
        "month",
        "A quarter of a data-centre GPU with a notebook server ready to open.",
        "For learning, fine-tuning small models and rendering. Drivers, CUDA and a notebook"
        " server are installed; your files live on a disk that outlasts the machine.",
        {
            "GPU": "12 GB slice",
            "vCPU": "6",
            "Memory": "24 GB",
            "Disk": "200 GB NVMe",
            "Power": "hydroelectric",
        },
        stock=12,
    ),
    ExampleProduct(
        "gpu-workstation",
        "GPU-Workstation",
        "compute",
        METAL,
        "Oslo, Norway",
        "340.00",
        "month",
        "A whole data-centre GPU for training and heavy inference.",
        "One card for you alone, passed through to your machine, with fast local disks for data"
        " sets. Can be stopped from your dashboard when a run is over.",
        {
            "GPU": "48 GB, dedicated",
            "vCPU": "16",
            "Memory": "128 GB ECC",
            "Disk": "2 TB NVMe",
            "Network": "10 Gbit/s",
        },
        stock=4,
        fields=(IMAGE, SSH_KEY),
    ),
    ExampleProduct(
        "storage-backup",
        "Storage-Backup",
        "compute",
        VAULT,
        "Zurich, Switzerland",
        "3.00",
        "month",
        "250 GB of encrypted off-site storage for backups, over SFTP, rsync or S3.",
        "Written three times in two buildings. Snapshots cannot be changed for 14 days, so that"
        " neither a slip of the hand nor ransomware can take them from you.",
        {
            "Capacity": "250 GB",
            "Protocols": "SFTP, rsync, restic, S3",
            "Copies": "3",
            "Locked snapshots": "14 days",
            "Transfer": "free",
        },
    ),
    ExampleProduct(
        "storage-archive",
        "Storage-Archive",
        "compute",
        VAULT,
        "Zurich, Switzerland",
        "6.50",
        "month",
        "2 TB for what you must keep and rarely read.",
        "Cold storage with a checksum for every object, verified each month. The first byte of"
        " a restore arrives within four hours.",
        {
            "Capacity": "2 TB",
            "Protocols": "S3",
            "First byte": "within 4 hours",
            "Verification": "monthly",
        },
        meters=(RESTORES,),
    ),
    ExampleProduct(
        "storage-volume",
        "Storage-Volume",
        "compute",
        NORTH,
        "Ghent, Belgium",
        "8.00",
        "month",
        "A 100 GB fast volume that can move between your machines.",
        "Block storage on NVMe, replicated in the same building. Attach, detach and enlarge it"
        " while the machine runs.",
        {"Capacity": "100 GB", "Operations": "10,000 a second", "Copies": "2"},
    ),
    ExampleProduct(
        "kubernetes-small",
        "Kubernetes-Small",
        "compute",
        NORTH,
        "Vienna, Austria",
        "36.00",
        "month",
        "A managed cluster of three workers, upgraded for you.",
        "The control plane is watched and backed up by the provider. Upgrades roll through the"
        " workers in the window that you choose.",
        {
            "Workers": "3 × 2 vCPU, 4 GB",
            "Control plane": "redundant",
            "Volumes": "60 GB included",
            "Upgrades": "in your window",
        },
    ),
]

THREE_NODES = [
    ExampleProduct(
        "3node-mini",
        "3Node Mini",
        "3nodes",
        NODES,
        "Shipped within the EU",
        "389.00",
        "once",
        "A silent desktop node to run your own capacity at home.",
        "Boots from the network, registers itself and offers its capacity within minutes."
        " No fan, no moving part, less power than a light bulb. Two years of warranty.",
        {
            "CPU": "4 cores",
            "Memory": "16 GB",
            "Disk": "1 TB NVMe",
            "Power": "12 W",
            "Warranty": "2 years",
        },
        stock=25,
    ),
    ExampleProduct(
        "3node-home",
        "3Node Home",
        "3nodes",
        NODES,
        "Shipped within the EU",
        "749.00",
        "once",
        "More memory and a second disk for a node that earns its keep.",
        "Eight cores and room for a third disk. Arrives tested for 48 hours, with the protocol"
        " of the test in the box.",
        {
            "CPU": "8 cores",
            "Memory": "64 GB",
            "Disk": "2 × 1 TB NVMe",
            "Power": "35 W",
            "Warranty": "2 years",
        },
        stock=10,
    ),
    ExampleProduct(
        "3node-rack",
        "3Node Rack 1U",
        "3nodes",
        NODES,
        "Shipped within the EU",
        "2190.00",
        "once",
        "A rack server with redundant power for a shared or own cabinet.",
        "Remote management, two power supplies and ECC memory. Rails and cables are included.",
        {
            "CPU": "32 cores",
            "Memory": "256 GB ECC",
            "Disk": "4 × 2 TB NVMe",
            "Power": "2 supplies",
            "Warranty": "3 years",
        },
        stock=3,
    ),
    ExampleProduct(
        "3node-hosted-small",
        "3Node Hosted Small",
        "3nodes",
        METAL,
        "Falkenstein, Germany",
        "42.00",
        "month",
        "A whole small node in a data centre, yours for as long as you need it.",
        "Dedicated hardware, delivered within the hour. You see every sensor and hold the only"
        " key to the disks.",
        {"CPU": "6 cores", "Memory": "64 GB", "Disk": "2 × 512 GB NVMe", "Network": "1 Gbit/s"},
        stock=18,
    ),
    ExampleProduct(
        "3node-hosted-large",
        "3Node Hosted Large",
        "3nodes",
        METAL,
        "Falkenstein, Germany",
        "128.00",
        "month",
        "A large dedicated node for databases and whole platforms.",
        "All of the machine and none of the neighbours. Replacement parts are in the building;"
        " a broken disk is changed within two hours.",
        {
            "CPU": "24 cores",
            "Memory": "256 GB ECC",
            "Disk": "4 × 1.9 TB NVMe",
            "Network": "10 Gbit/s",
        },
        stock=6,
    ),
    ExampleProduct(
        "3node-colocation",
        "3Node Colocation Slot",
        "3nodes",
        METAL,
        "Oslo, Norway",
        "55.00",
        "month",
        "Power, cooling and a network port for a node of your own.",
        "Send us your node or come by with it. Remote hands are included for 30 minutes each"
        " month.",
        {
            "Space": "1U",
            "Power": "150 W included",
            "Network": "1 Gbit/s, 20 TB",
            "Remote hands": "30 minutes a month",
        },
        stock=8,
    ),
    ExampleProduct(
        "3node-memory-kit",
        "3Node Memory Kit",
        "3nodes",
        NODES,
        "Shipped within the EU",
        "94.00",
        "once",
        "32 GB more for a 3Node Mini or Home, with a screwdriver.",
        "Two matched modules, tested in the same board. The printed guide takes ten minutes.",
        {"Capacity": "2 × 16 GB", "Fits": "Mini, Home", "Warranty": "5 years"},
        stock=40,
    ),
]

GATEWAYS = [
    ExampleProduct(
        "gateway-eu",
        "Gateway-EU",
        "gateways",
        EDGE,
        "Frankfurt, Germany",
        "5.00",
        "month",
        "A public IPv4 address and HTTPS for your machines in Europe.",
        "Point a name at it and it gets a certificate, renews it and passes the traffic to your"
        " machine through an encrypted tunnel. No port of your own needs to be open.",
        {
            "Address": "1 IPv4, 1 IPv6",
            "Transfer": "2 TB a month",
            "Certificates": "automatic",
            "Names": "up to 25",
            "Latency": "under 20 ms in the EU",
        },
    ),
    ExampleProduct(
        "gateway-us",
        "Gateway-US",
        "gateways",
        EDGE,
        "Chicago, United States",
        "6.00",
        "month",
        "The same gateway with an address in North America.",
        "For visitors on the other side of the ocean. Pair it with Gateway-EU and names resolve"
        " to whichever is nearer.",
        {
            "Address": "1 IPv4, 1 IPv6",
            "Transfer": "2 TB a month",
            "Certificates": "automatic",
            "Names": "up to 25",
        },
    ),
    ExampleProduct(
        "gateway-asia",
        "Gateway-Asia",
        "gateways",
        EDGE,
        "Singapore",
        "7.50",
        "month",
        "An entrance for visitors in Asia and the Pacific.",
        "Terminates HTTPS close to your visitors and keeps connections to your machine warm, so"
        " that the first page comes fast.",
        {
            "Address": "1 IPv4, 1 IPv6",
            "Transfer": "1 TB a month, then by the GB",
            "Certificates": "automatic",
            "Names": "up to 25",
        },
        meters=(TRANSFER,),
    ),
    ExampleProduct(
        "gateway-balancer",
        "Gateway-Balancer",
        "gateways",
        EDGE,
        "Frankfurt, Germany",
        "14.00",
        "month",
        "Spreads traffic over several machines and leaves out the sick ones.",
        "Health checks every two seconds, sticky sessions if you want them, and blue-green"
        " switches without a lost request.",
        {
            "Targets": "up to 20",
            "Transfer": "5 TB a month",
            "Health checks": "HTTP, TCP",
            "Protocols": "HTTP/1.1, HTTP/2, TCP",
        },
    ),
    ExampleProduct(
        "gateway-tunnel",
        "Gateway-Tunnel",
        "gateways",
        EDGE,
        "Amsterdam, Netherlands",
        "3.50",
        "month",
        "A private WireGuard network between your machines and your desk.",
        "Ten devices on one private network, with names that resolve inside it. The keys are"
        " made on your devices and stay there.",
        {"Devices": "10", "Protocol": "WireGuard", "Transfer": "500 GB a month"},
    ),
    ExampleProduct(
        "gateway-shield",
        "Gateway-Shield",
        "gateways",
        EDGE,
        "Frankfurt, Germany",
        "19.00",
        "month",
        "Filters floods and bad bots before they reach you.",
        "A web application firewall with rules that you can read, rate limits for each path and"
        " a log of everything that was turned away.",
        {
            "Filtering": "network and application",
            "Rules": "readable, your own too",
            "Log": "30 days",
        },
    ),
    ExampleProduct(
        "gateway-extra-ipv4",
        "Extra IPv4 Address",
        "gateways",
        EDGE,
        "Frankfurt, Germany",
        "2.00",
        "month",
        "One more public IPv4 address for any gateway in Europe.",
        "With a reverse name of your choice. IPv4 addresses are scarce: there are as many as"
        " the counter says.",
        {"Address": "1 IPv4", "Reverse DNS": "yes"},
        stock=64,
    ),
]

APPLICATIONS = [
    ExampleProduct(
        "app-wordpress",
        "Managed WordPress",
        "applications",
        APPS,
        "Ghent, Belgium",
        "9.00",
        "month",
        "A site that updates itself, with a staging copy and nightly backups.",
        "Updates are tried on a copy first and go live only when the pages still look the same."
        " Page cache and image resizing are included.",
        {
            "Sites": "1 and its staging copy",
            "Disk": "20 GB",
            "Visits": "about 50,000 a month",
            "Backups": "nightly, 30 kept",
        },
    ),
    ExampleProduct(
        "app-nextcloud",
        "Nextcloud for Teams",
        "applications",
        APPS,
        "Zurich, Switzerland",
        "12.00",
        "month",
        "Files, calendars and calls for ten people, on servers in Europe.",
        "Sync clients for every system, shared calendars, and documents that several people"
        " edit at once. Export everything at any time.",
        {"People": "10", "Disk": "500 GB", "Office": "included", "Backups": "nightly"},
    ),
    ExampleProduct(
        "app-gitea",
        "Gitea with Runners",
        "applications",
        APPS,
        "Vienna, Austria",
        "11.00",
        "month",
        "Your own code forge with issues, packages and two build runners.",
        "Private repositories without a limit. Runners build in fresh containers and have a"
        " cache that is yours alone.",
        {"Repositories": "unlimited", "Runners": "2", "Disk": "60 GB", "Build minutes": "3,000"},
        fields=(DOMAIN,),
    ),
    ExampleProduct(
        "app-postgresql",
        "PostgreSQL Managed",
        "applications",
        APPS,
        "Ghent, Belgium",
        "18.00",
        "month",
        "A database with a standby, restorable to any second of the last week.",
        "Fails over by itself within 30 seconds. Upgrades to a new major version are rehearsed"
        " on a copy of your data before you agree to them.",
        {
            "Memory": "4 GB",
            "Disk": "50 GB",
            "Standby": "1",
            "Restore": "any second, 7 days",
            "Extensions": "PostGIS, pgvector, and more",
        },
    ),
    ExampleProduct(
        "app-matrix",
        "Matrix Chat Server",
        "applications",
        APPS,
        "Zurich, Switzerland",
        "7.00",
        "month",
        "Encrypted chat under your own name, federated with the world.",
        "Rooms, calls and bridges to other networks. Ready for your own domain in a quarter of"
        " an hour.",
        {"People": "50", "Disk": "40 GB", "Bridges": "IRC, XMPP", "Calls": "included"},
    ),
    ExampleProduct(
        "app-plausible",
        "Web Analytics",
        "applications",
        APPS,
        "Ghent, Belgium",
        "4.00",
        "month",
        "Visitor numbers without cookies or banners.",
        "One small script, a dashboard on one page, and a report by mail every Monday. Personal"
        " data is never stored.",
        {"Page views": "100,000 a month, then by use", "Sites": "5", "History": "3 years"},
        meters=(PAGE_VIEWS,),
    ),
    ExampleProduct(
        "app-monitoring",
        "Uptime and Metrics",
        "applications",
        APPS,
        "Oslo, Norway",
        "6.00",
        "month",
        "Checks from five places, graphs, and an alert when it matters.",
        "Prometheus and Grafana run for you, with sensible dashboards for machines, gateways and"
        " databases. Alerts by mail or webhook.",
        {"Checks": "25, every minute", "Metrics": "50,000 series", "History": "90 days"},
    ),
    ExampleProduct(
        "app-mail",
        "Mail for a Domain",
        "applications",
        APPS,
        "Zurich, Switzerland",
        "5.50",
        "month",
        "Mailboxes for your domain that land in inboxes, not in spam.",
        "SPF, DKIM and DMARC are set up with you. Webmail, IMAP and calendars are included.",
        {"Mailboxes": "5", "Disk": "10 GB each", "Aliases": "unlimited"},
    ),
    ExampleProduct(
        "app-theme-pack",
        "Storefront Theme Pack",
        "applications",
        APPS,
        None,
        "29.00",
        "once",
        "Six accessible themes for a small shop, yours to keep.",
        "Checked with a keyboard and a screen reader. Comes with its sources and a year of"
        " updates.",
        {"Themes": "6", "Licence": "perpetual, one site", "Updates": "1 year"},
    ),
]

SERVICES = [
    ExampleProduct(
        "service-migration",
        "Migration Day",
        "services",
        CARE,
        "Remote",
        "240.00",
        "once",
        "An engineer moves your site or application here, in a day.",
        "A call to plan, a rehearsal on a copy, and the switch at an hour that suits you. The"
        " old place stays untouched until you say so.",
        {"Duration": "1 day", "Includes": "plan, rehearsal, switch", "Afterwards": "14 days watch"},
        stock=5,
    ),
    ExampleProduct(
        "service-security-review",
        "Security Review",
        "services",
        CARE,
        "Remote",
        "480.00",
        "once",
        "A careful look at your machines, with a report that you can act on.",
        "Configuration, updates, exposed ports, backups and access. Findings are ordered by"
        " what they put at risk, each with the steps to mend it.",
        {"Duration": "2 days", "Scope": "up to 10 machines", "Report": "within a week"},
        stock=4,
    ),
    ExampleProduct(
        "service-restore-drill",
        "Restore Drill",
        "services",
        CARE,
        "Remote",
        "75.00",
        "once",
        "Somebody restores your backups on purpose, before you need it.",
        "You get the time it took, what was missing, and a page to follow on a bad day.",
        {"Duration": "half a day", "Scope": "1 application", "Report": "the same day"},
    ),
    ExampleProduct(
        "service-support",
        "Support, Business Hours",
        "services",
        CARE,
        "Remote",
        "29.00",
        "month",
        "Engineers who answer within two hours on working days.",
        "By mail or chat, about anything that runs on the marketplace. No queue, no script.",
        {"Hours": "9 to 18 CET", "First answer": "2 hours", "People": "up to 3 contacts"},
    ),
    ExampleProduct(
        "service-support-24",
        "Support, Day and Night",
        "services",
        CARE,
        "Remote",
        "149.00",
        "month",
        "A phone number that wakes an engineer, every hour of the year.",
        "For the service that must not be down. Includes a call each quarter about what went"
        " wrong and what to change.",
        {"Hours": "always", "First answer": "15 minutes", "Review": "every quarter"},
        stock=20,
    ),
    ExampleProduct(
        "service-care-plan",
        "Care Plan",
        "services",
        CARE,
        "Remote",
        "19.00",
        "month",
        "Updates, a look at the logs and a tested backup, each month.",
        "For machines that nobody has time for. You get one short page a month.",
        {"Machines": "1", "Updates": "monthly, security at once", "Restore test": "monthly"},
    ),
    ExampleProduct(
        "service-workshop",
        "Kubernetes Workshop",
        "services",
        CARE,
        "Remote",
        "120.00",
        "once",
        "Half a day of hands-on training for up to eight people.",
        "On a cluster of your own that stays up for a week afterwards, for practice.",
        {"Duration": "4 hours", "People": "up to 8", "Language": "English"},
        stock=6,
    ),
    ExampleProduct(
        "service-consultation",
        "First Consultation",
        "services",
        CARE,
        "Remote",
        "0.00",
        "once",
        "Thirty minutes with an engineer, at no charge.",
        "Tell us what you run and what bothers you; you leave with three things to do next.",
        {"Duration": "30 minutes", "Follow-up": "written notes"},
    ),
]


def _interleaved(*groups: list[ExampleProduct]) -> list[ExampleProduct]:
    """One of each group in turn, so that the first page shows every category."""
    longest = max(len(group) for group in groups)
    return [group[place] for place in range(longest) for group in groups if place < len(group)]


EXAMPLE_PRODUCTS = _interleaved(COMPUTE, GATEWAYS, APPLICATIONS, THREE_NODES, SERVICES)
