from django.conf import settings
from django.db import migrations, models
from django.db.models import OuterRef, Subquery, Sum
from django.db.models.functions import Coalesce


class Bytes(models.Func):
    function = "OCTET_LENGTH"
    output_field = models.IntegerField()

    def as_sqlite(self, compiler, connection, **context):
        return self.as_sql(compiler, connection, template="LENGTH(CAST(%(expressions)s AS BLOB))", **context)


def count_bytes(apps, schema_editor):
    """Sums up the logs that are there already, each by its own index."""
    alias = schema_editor.connection.alias
    Session, Event = apps.get_model("ohsessions", "Session"), apps.get_model("ohsessions", "Event")
    of_it = Event.objects.filter(session=OuterRef("pk")).order_by().values("session")
    size = Subquery(of_it.annotate(size=Sum(Bytes("data"))).values("size"))
    Session.objects.using(alias).update(log_bytes=Coalesce(size, 0))


class Migration(migrations.Migration):

    dependencies = [
        ('ohsessions', '0003_limits'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='session',
            name='ohsessions_by_state',
        ),
        migrations.AddField(
            model_name='session',
            name='log_bytes',
            field=models.BigIntegerField(db_default=0, default=0, help_text="Size of the events' JSON."),
        ),
        migrations.AddIndex(
            model_name='session',
            index=models.Index(fields=['state', 'worker', 'state_at'], name='ohsessions_by_state_since'),
        ),
        migrations.AddIndex(
            model_name='session',
            index=models.Index(condition=models.Q(('owner__isnull', True)), fields=['state', 'state_at'], name='ohsessions_ownerless'),
        ),
        migrations.RunPython(count_bytes, migrations.RunPython.noop, elidable=True),
    ]
